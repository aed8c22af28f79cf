"""What one search step costs beside NASLib's DARTS, DrNAS and GDAS: all in one process, in turn.

    export BALENAS_NASLIB_PATH=~/NASLib
    python integration_tests/benchmarks/naslib_iteration_cost.py
    python integration_tests/benchmarks/naslib_iteration_cost.py --space nb301 --batch-size 2

Prints the median time of a step of each and its ratio to DARTS's in the same rounds, then the same as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings

warnings.simplefilter("ignore")

import torch  # noqa: E402

from balenas_plugin.naslib import BaLeNASOptimizer  # noqa: E402  (first: it makes NASLib importable)

# isort: split
from naslib import optimizers, search_spaces  # noqa: E402

SPACES = {"nb201": search_spaces.NasBench201SearchSpace, "nb301": search_spaces.NasBench301SearchSpace}
CANDIDATES = {
    "NASLib DARTS": (optimizers.DARTSOptimizer, {}),
    "NASLib DrNAS": (optimizers.DrNASOptimizer, {}),
    "NASLib GDAS": (optimizers.GDASOptimizer, {}),
    "BaLeNAS M=1": (BaLeNASOptimizer, {"num_mc_samples": 1}),
    "BaLeNAS M=1, weights at a draw": (BaLeNASOptimizer, {"num_mc_samples": 1, "weight_step_alpha": "sample"}),
    "BaLeNAS M=3": (BaLeNASOptimizer, {"num_mc_samples": 3}),
    "BaLeNAS M=1 second order": (BaLeNASOptimizer, {"num_mc_samples": 1, "order": "second"}),
}


def batch(options):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(options.batch_size, 3, options.image_size, options.image_size, device=device)
    return images, torch.randint(0, 10, (options.batch_size,), device=device)


def prepared(name, options):
    cls, arguments = CANDIDATES[name]
    torch.manual_seed(0)
    optimizer = cls(**arguments)
    optimizer.adapt_search_space(SPACES[options.space](), "cifar10")
    optimizer.before_training()
    return optimizer


def seconds_of_a_step(optimizer, data):
    start = time.perf_counter()
    optimizer.step(data, data)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=SPACES, default="nb201")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES), choices=list(CANDIDATES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("naslib").setLevel(logging.ERROR)

    names = list(dict.fromkeys(["NASLib DARTS", *options.only]))
    running = {name: prepared(name, options) for name in names}
    data = batch(options)
    for optimizer in running.values():
        seconds_of_a_step(optimizer, data)  # warm up
    seconds = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(seconds_of_a_step(running[name], data))

    size = f"{options.image_size}x{options.image_size}"
    print(
        f"{options.space}, batch {options.batch_size}, {size}, {options.threads} thread(s), torch {torch.__version__}"
    )
    print(f"{'':32}{'ms/step':>10}{'ratio':>8}")
    table = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = statistics.median(a / b for a, b in zip(values, seconds["NASLib DARTS"], strict=True))
        table[name] = {"ms_per_step": round(1000 * median, 1), "ratio": round(ratio, 3)}
        print(f"{name:32}{1000 * median:10.1f}{ratio:8.2f}")
    print(json.dumps({**vars(options), "torch": torch.__version__, "steps": table}))


if __name__ == "__main__":
    main()

"""Table 4 of the paper on a posterior of ours: the true accuracy of each proxy's pick among n draws.

    python integration_tests/benchmarks/selection_curve.py RUN_DIR/posterior.json --table ../shared/data

The true accuracies are looked up afterwards; no search has seen them. The paper has, on CIFAR-10 and for n = 10,
50, 100: SynFlow 94.08, 94.33, 94.33, SNIP 93.85, 92.56, 91.37.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import torch
from tqdm import tqdm

from balenas_plugin import Posterior
from balenas_plugin.bayes.decisions import Architectures
from balenas_plugin.benchmarks import open_benchmark
from balenas_plugin.export import NasBench201Space
from balenas_plugin.export.candidates import drawn_candidates
from balenas_plugin.proxies import rank_value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posterior", type=Path)
    parser.add_argument("--table", type=Path, help="NAS-Bench-201 table or its folder (default: BALENAS_DATA)")
    parser.add_argument("--draws", type=int, nargs="+", default=[10, 50, 100, 1000])
    parser.add_argument("--proxies", nargs="+", default=["synflow", "snip", "grasp"])
    parser.add_argument("--seeds", type=int, default=3, help="of the draws")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    benchmark = open_benchmark(options.table)
    space = NasBench201Space(channels=options.channels, cells_per_stage=options.cells, image_size=options.image_size)
    architectures = Architectures(space.decisions, Posterior.load(options.posterior))
    networks = space.networks(0)
    torch.manual_seed(0)
    inputs = torch.randn(options.batch_size, *space.image_shape)
    targets = torch.randint(0, 10, (options.batch_size,))
    values = {}

    def value(proxy, sample):
        key = (proxy, *sample.values())
        if key not in values:
            fast = networks.fast_rank_value(proxy, sample)
            values[key] = rank_value(proxy, networks.build(sample), inputs, targets) if fast is None else fast
        return values[key]

    def accuracy(sample):
        return benchmark.query(space.notations(sample)["nasbench201"], "cifar10", "test_accuracy")

    drawn = {
        (n, seed): [c.sample for c in drawn_candidates(architectures, n, seed=seed)]
        for n in options.draws
        for seed in range(options.seeds)
    }
    print(f"CIFAR-10 test accuracy of the pick, mean over {options.seeds} sets of draws")
    print(f"{'n':>6}{'distinct':>10}{'all draws':>11}" + "".join(f"{proxy:>10}" for proxy in options.proxies))
    for n in options.draws:
        sets = [drawn[n, seed] for seed in range(options.seeds)]
        average = mean(mean(accuracy(sample) for sample in samples) for samples in sets)
        row = f"{n:>6}{mean(len(samples) for samples in sets):>10.0f}{average:>11.2f}"
        for proxy in options.proxies:
            picks = [max(tqdm(samples, leave=False), key=lambda s: value(proxy, s)) for samples in sets]
            row += f"{mean(accuracy(pick) for pick in picks):>10.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()

"""What one search iteration costs beside NNI's DARTS strategy: both in one process, in turn.

    python integration_tests/benchmarks/iteration_cost.py
    python integration_tests/benchmarks/iteration_cost.py --channels 16 --cells 5 --batch-size 16 --image-size 32

Prints the median time of an iteration of each and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings

warnings.simplefilter("ignore")

import nni.nas.strategy  # noqa: E402  (first, see balenas_plugin.adapters.nni)
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from nni.nas.evaluator.pytorch import Classification, DataLoader  # noqa: E402
from nni.nas.execution import SequentialExecutionEngine  # noqa: E402
from nni.nas.hub.pytorch import NasBench201  # noqa: E402
from nni.nas.space import RawFormatModelSpace  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402

from balenas_plugin import BaLeNAS  # noqa: E402

WARM_UP = 3


class Stopwatch(pl.Callback):
    """Times whole iterations, from the start of one batch to the start of the next."""

    def __init__(self):
        self.starts = []

    def on_train_batch_start(self, *_):
        self.starts.append(time.perf_counter())

    def seconds(self):
        return [b - a for a, b in zip(self.starts[WARM_UP:], self.starts[WARM_UP + 1 :], strict=False)]


def measure(strategy, options):
    torch.manual_seed(0)
    images = torch.randn(options.batch_size * options.iterations, 3, options.image_size, options.image_size)
    loader = DataLoader(TensorDataset(images, torch.randint(0, 10, (len(images),))), batch_size=options.batch_size)
    stopwatch = Stopwatch()
    evaluator = Classification(
        train_dataloaders=loader,
        val_dataloaders=loader,
        num_classes=10,
        optimizer=torch.optim.SGD,
        learning_rate=0.01,
        max_epochs=1,
        callbacks=[stopwatch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    space = NasBench201(stem_out_channels=options.channels, num_modules_per_stack=options.cells)
    strategy(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    return stopwatch.seconds()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=1, help="cells per stage")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=15, help="per round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "nni"):
        logging.getLogger(name).setLevel(logging.ERROR)

    candidates = {
        "NNI DARTS": nni.nas.strategy.DARTS,
        "NNI GumbelDARTS": nni.nas.strategy.GumbelDARTS,
        "BaLeNAS M=1": lambda: BaLeNAS(num_mc_samples=1, validate_every_n_epochs=0),
        "BaLeNAS M=1 nofuse": lambda: BaLeNAS(num_mc_samples=1, validate_every_n_epochs=0, fused=False),
        "BaLeNAS M=1 nofuse nocl": lambda: BaLeNAS(num_mc_samples=1, validate_every_n_epochs=0, fused=False,channels_last=False),
        "BaLeNAS M=1 fuse nocl": lambda: BaLeNAS(num_mc_samples=1, validate_every_n_epochs=0, fused=True,channels_last=False),
        "BaLeNAS M=1, weights at a draw": lambda: BaLeNAS(
            num_mc_samples=1, weight_step_alpha="sample", validate_every_n_epochs=0
        ),
        "BaLeNAS M=3": lambda: BaLeNAS(num_mc_samples=3, validate_every_n_epochs=0),
        "BaLeNAS M=1 second order": lambda: BaLeNAS(num_mc_samples=1, order="second", validate_every_n_epochs=0),
    }
    seconds = {name: [] for name in candidates}
    for _ in range(options.rounds):
        for name, make in candidates.items():
            seconds[name] += measure(make(), options)
    baseline = statistics.median(seconds["NNI DARTS"])
    size = f"{options.image_size}x{options.image_size}"
    print(f"C {options.channels}, N {options.cells}, batch {options.batch_size}, {size}", end=", ")
    print(f"{options.threads} thread(s), torch {torch.__version__}")
    print(f"{'':32}{'ms/iteration':>14}{'ratio':>8}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:32}{1000 * median:14.1f}{median / baseline:8.2f}")


if __name__ == "__main__":
    main()

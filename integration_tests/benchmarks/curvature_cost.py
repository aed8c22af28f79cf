"""What a row of the exact Hessian costs, with torch's second derivative of batch-norm and with ours, in turn.

    python integration_tests/benchmarks/curvature_cost.py
    python integration_tests/benchmarks/curvature_cost.py --channels 8 --cells 1 --batch-size 128 --image-size 16

Prints medians over all rows, and how much the two matrices differ.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from contextlib import nullcontext
from unittest import mock

warnings.simplefilter("ignore")

import nni.nas.strategy  # noqa: E402, F401  (first, see balenas_plugin.adapters.nni)
import torch  # noqa: E402
from nni.nas.evaluator.pytorch import Classification  # noqa: E402
from nni.nas.execution import SequentialExecutionEngine  # noqa: E402
from nni.nas.hub.pytorch import NasBench201  # noqa: E402
from nni.nas.space import RawFormatModelSpace  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from balenas_plugin import BaLeNAS  # noqa: E402
from balenas_plugin.adapters.nni.one_shot.memory_format import use_channels_last  # noqa: E402
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters  # noqa: E402
from balenas_plugin.bayes.second_derivatives import hessian  # noqa: E402


def supernet(options: argparse.Namespace) -> nn.Module:
    strategy = BaLeNAS()
    space = NasBench201(stem_out_channels=options.channels, num_modules_per_stack=options.cells)
    evaluator = Classification(
        num_classes=10, train_dataloaders=[], val_dataloaders=[], max_epochs=1, enable_progress_bar=False
    )
    strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    return strategy.supernet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=3, help="per stage")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    network = supernet(options).requires_grad_(False)
    x = torch.randn(options.batch_size, 3, options.image_size, options.image_size)
    labels = torch.randint(0, 10, (options.batch_size,))
    use_channels_last(network, lambda: network(x))
    alphas = list(architecture_parameters(network).values())
    for alpha in alphas:
        alpha.requires_grad_(True)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(network(x), labels)

    gradients = {"ours": hessian.twice_differentiable_gradient(loss, alphas)}
    with mock.patch.object(hessian, "FastSecondDerivative", nullcontext):
        gradients = {"torch": hessian.twice_differentiable_gradient(loss, alphas), **gradients}
    seconds: dict[str, list[float]] = {name: [] for name in gradients}
    rows: dict[str, list[Tensor]] = {name: [] for name in gradients}
    for _ in range(options.rounds):
        for k in range(len(gradients["ours"])):
            for name, gradient in gradients.items():
                start = time.perf_counter()
                second = torch.autograd.grad(gradient[k], alphas, retain_graph=True, allow_unused=True)
                seconds[name].append(time.perf_counter() - start)
                rows[name].append(hessian.joined(second, alphas))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:6}{1000 * median:7.0f} ms a row, ratio {median / medians['torch']:.2f}")
    ours, theirs = (torch.stack(rows[name]) for name in ("ours", "torch"))
    share = (ours - theirs).abs().max() / theirs.abs().max()
    print(f"largest difference, as a share of the largest entry: {share:.1e}")


if __name__ == "__main__":
    main()

"""How wide the posterior of VAdam becomes: sigma over the steps, for several N, precisions and M.

Draws docs/images/sigma_*.svg.

    python integration_tests/benchmarks/posterior_width.py --output docs/images

The gradients are random numbers of a given root mean square, as those of an architecture parameter nearly are; what is
drawn is VAdam itself, and beside it the value that sigma goes to, 1 / sqrt(N g^2 + lambda).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from balenas_plugin.bayes import SeededNoise, VAdam

STEPS = 3000
STYLES = ("-", "--", "-.", ":")


def sigma_over_steps(gradient: float, *, steps: int = STEPS, spread: float = 0.0, **options: float) -> list[float]:
    """Return sigma in logits after each step.

    Args:
        gradient: root mean square of the gradient of one draw.
        spread: part of it that differs between the draws of one step (0: all draws see the same).
        options: of VAdam.
    """
    generator = torch.Generator().manual_seed(0)
    mu = torch.nn.Parameter(torch.zeros(256))
    optimizer = VAdam([mu], noise=SeededNoise(1), **{"lr": 1e-6, **options})
    found = []
    for _ in range(steps):
        shared = torch.randn(256, generator=generator) * math.sqrt(1 - spread**2)

        def closure(shared: torch.Tensor = shared) -> torch.Tensor:
            own = torch.randn(256, generator=generator) * spread
            mu.grad = gradient * (shared + own)
            return mu.grad.sum()

        optimizer.step(closure)
        found.append(float(optimizer.precision(mu).rsqrt().mean()))
    return found


def draw(path: Path, title: str, curves: dict[str, list[float]], limits: dict[str, float]) -> None:
    """Write one picture: curves distinguished by their dashes, and the values they go to as thin lines."""
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for (label, values), style in zip(curves.items(), STYLES, strict=False):
        (line,) = axes.plot(values, style, label=label, linewidth=1.8)
        axes.axhline(limits[label], color=line.get_color(), linewidth=0.6)
    axes.set(title=title, xlabel="architecture step", ylabel="sigma (logits)", ylim=(0, 1.05), xlim=(0, STEPS))
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "balenas"
    g = 0.01

    def limit(N: float, prior: float = 1.0, square: float = g * g) -> float:
        return 1 / math.sqrt(N * square + prior)

    sizes = (1_000, 5_000, 25_000, 100_000)
    draw(
        options.output / "sigma_dataset_size.svg",
        "dataset_size N (gradient 0.01, precisions 1)",
        {f"N = {N:,}": sigma_over_steps(g, dataset_size=N) for N in sizes},
        {f"N = {N:,}": limit(N) for N in sizes},
    )
    precisions = ((1.0, 1.0), (1.0, 10.0), (10.0, 10.0))
    draw(
        options.output / "sigma_precision.svg",
        "precisions (gradient 0.01, N = 25,000)",
        {
            f"prior {prior:g}, initial {initial:g}": sigma_over_steps(
                g, dataset_size=25_000, prior_precision=prior, initial_precision=initial
            )
            for prior, initial in precisions
        },
        {f"prior {prior:g}, initial {initial:g}": limit(25_000, prior) for prior, initial in precisions},
    )
    # a draw's own gradient of variance g^2 stands for the part of the batch it sees: a third of it has three times that
    draw(
        options.output / "sigma_mc_samples.svg",
        "num_mc_samples M (gradient 0.01, N = 25,000)",
        {
            "M = 1": sigma_over_steps(g, dataset_size=25_000, num_mc_samples=1),
            "M = 3, full batches": sigma_over_steps(g, dataset_size=25_000, num_mc_samples=3, spread=0.7),
            "M = 3, split batch": sigma_over_steps(g * math.sqrt(3), dataset_size=25_000, num_mc_samples=3, spread=1.0),
        },
        {
            "M = 1": limit(25_000),
            "M = 3, full batches": limit(25_000),
            "M = 3, split batch": limit(25_000, square=3 * g * g),
        },
    )
    print(f"three pictures in {options.output}")


if __name__ == "__main__":
    main()

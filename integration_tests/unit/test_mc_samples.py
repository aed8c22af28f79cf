"""The mean gradient over M draws: antithetic pairs, and a batch split among the draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.bayes.vadam import VAdam
from balenas_plugin.errors import OptionError

TRIALS = 400


class Regression:
    """Softmax regression on a fixed data set: the loss's gradient depends on the draw and on the batch."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(240, 4, generator=generator, dtype=torch.float64)
        self.y = torch.randint(3, (240,), generator=generator)
        self.batches = torch.Generator().manual_seed(1)

    def batch(self, size: int) -> Tensor:
        return torch.randint(len(self.x), (size,), generator=self.batches)

    def loss(self, theta: Tensor, rows: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(self.x[rows] @ theta, self.y[rows])


def gradients(*, samples: int, split: bool, antithetic: bool, whole_set: bool = False) -> tuple[Tensor, Tensor]:
    """Return the mean gradients and mean squared gradients of many steps taken from one posterior, (TRIALS, 4, 3)."""
    problem, noise = Regression(), SeededNoise(7)
    means, squares = [], []
    for _ in range(TRIALS):
        mu = torch.nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3).clone())
        optimizer = VAdam([mu], num_mc_samples=samples, antithetic=antithetic, noise=noise, initial_precision=4.0)
        rows = torch.arange(240) if whole_set else problem.batch(24)
        parts = iter(rows.chunk(samples) if split else [rows] * samples)
        seen: list[Tensor] = []

        def closure(mu=mu, parts=parts, seen=seen) -> Tensor:
            loss = problem.loss(mu, next(parts))
            loss.backward()
            seen.append(mu.grad.clone())
            return loss

        optimizer.step(closure)
        torch.testing.assert_close(mu.grad, torch.stack(seen).mean(0), rtol=1e-12, atol=1e-12)
        means.append(mu.grad)
        squares.append(torch.stack(seen).square().mean(0))
    return torch.stack(means), torch.stack(squares)


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[Tensor, Tensor]]:
    return {
        "one": gradients(samples=1, split=False, antithetic=False),
        "full": gradients(samples=4, split=False, antithetic=False),
        "split": gradients(samples=4, split=True, antithetic=False),
        "antithetic": gradients(samples=4, split=False, antithetic=True),
        "split antithetic": gradients(samples=4, split=True, antithetic=True),
    }


@pytest.mark.parametrize("how", ["full", "split", "antithetic", "split antithetic"])
def test_every_way_is_unbiased(measured: dict[str, tuple[Tensor, Tensor]], how: str) -> None:
    """The difference of two means stays within five standard errors in each of 12 entries."""
    one, other = measured["one"][0], measured[how][0]
    error = (one.var(0) / TRIALS + other.var(0) / TRIALS).sqrt()
    assert ((one.mean(0) - other.mean(0)).abs() < 5 * error).all()
    assert other.mean(0).abs().max() > 5 * error.max()  # the gradient is not zero, so this could fail


def variance(measured: dict[str, tuple[Tensor, Tensor]], how: str) -> float:
    return float(measured[how][0].var(0).sum())


def test_variances_come_in_the_order_the_theory_says(measured: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Split draws share no examples, so they lose only what the full form gains by showing all to each draw."""
    one, full, split = (variance(measured, how) for how in ("one", "full", "split"))
    assert full < split < one
    assert variance(measured, "antithetic") < full
    assert variance(measured, "split antithetic") < split


def test_splitting_raises_the_squared_gradient_and_so_narrows_the_posterior(
    measured: dict[str, tuple[Tensor, Tensor]],
) -> None:
    """s follows E[g^2] of one draw, whose part of the batch is smaller."""
    full, split = (float(measured[how][1].mean(0).sum()) for how in ("full", "split"))
    assert split > 1.1 * full


def test_antithetic_draws_are_mirrored_at_the_mean() -> None:
    mu = torch.nn.Parameter(torch.randn(5, dtype=torch.float64))
    start = mu.detach().clone()
    seen: list[Tensor] = []

    def closure() -> Tensor:
        seen.append(mu.detach().clone() - start)
        loss = (mu**2).sum()
        loss.backward()
        return loss

    VAdam([mu], num_mc_samples=5, antithetic=True, noise=SeededNoise(0)).step(closure)
    torch.testing.assert_close(seen[1], -seen[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seen[3], -seen[2], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(seen[0].abs(), seen[2].abs())
    assert not torch.allclose(seen[2].abs(), seen[4].abs())


def test_a_linear_gradient_has_no_variance_under_antithetic_draws() -> None:
    """The noise of a quadratic's gradient is odd in epsilon and cancels in each pair."""
    means = []
    for seed in range(5):
        mu = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = VAdam([mu], num_mc_samples=2, antithetic=True, noise=SeededNoise(seed))

        def closure(mu=mu) -> Tensor:
            loss = (mu**2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        means.append(mu.grad)
    torch.testing.assert_close(torch.stack(means), torch.full((5, 3), 2.0, dtype=torch.float64))


def test_antithetic_needs_a_pair() -> None:
    with pytest.raises(OptionError, match="at least 2, got 1"):
        VAdam([torch.nn.Parameter(torch.zeros(2))], num_mc_samples=1, antithetic=True)

"""Winning probabilities against closed forms, independent quadrature and Monte Carlo."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from balenas_plugin.bayes.order_statistics import log_node_probability, log_top_set_probability, log_win_probability

vectors = st.integers(2, 6).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-5, 5), min_size=k, max_size=k), st.lists(st.floats(0.01, 10), min_size=k, max_size=k)
    )
)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(a=st.floats(-6, 6), b=st.floats(-6, 6), s=st.floats(0.01, 20), t=st.floats(0.01, 20))
def test_two_choices_have_a_closed_form(a, b, s, t):
    found = log_win_probability(double([a, b]), double([s, t]))
    expected = stats.norm.logcdf((a - b) / math.hypot(s, t))
    assert found[0].item() == pytest.approx(expected, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("difference", [5.0, 20.0, 60.0])
def test_tiny_probabilities_keep_their_relative_accuracy(difference):
    found = log_win_probability(double([0.0, difference]), double([1.0, 1.0]))
    assert found[0].item() == pytest.approx(stats.norm.logcdf(-difference / math.sqrt(2)), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(vectors)
def test_win_probability_equals_adaptive_quadrature(vector):
    mean, std = vector

    def integrand(x, o):
        others = [stats.norm.cdf(x, m, s) for j, (m, s) in enumerate(zip(mean, std, strict=True)) if j != o]
        return stats.norm.pdf(x, mean[o], std[o]) * np.prod(others)

    found = log_win_probability(double(mean), double(std)).exp()
    assert found.sum().item() == pytest.approx(1.0, abs=1e-12)
    o = int(torch.argmax(found))
    breaks = sorted({m + c * s for m, s in zip(mean, std, strict=True) for c in (-6, -3, -1, 0, 1, 3, 6)})
    limits = [mean[o] - 9 * std[o], *[x for x in breaks if abs(x - mean[o]) < 9 * std[o]], mean[o] + 9 * std[o]]
    expected = sum(
        integrate.quad(integrand, lo, hi, args=(o,), epsabs=1e-12, limit=200)[0]
        for lo, hi in itertools.pairwise(limits)
    )
    assert found[o].item() == pytest.approx(expected, abs=1e-7)


def draws(mean, std, n=400_000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return double(mean) + double(std) * torch.randn(n, len(mean), generator=generator, dtype=torch.float64)


def within_sampling_error(count, n, probability):
    return abs(count / n - probability) <= 5 * math.sqrt(max(probability * (1 - probability), 1e-6) / n) + 1e-9


def test_win_probability_agrees_with_monte_carlo():
    mean, std = [0.3, -0.1, 0.0, 0.5, -1.0], [1.0, 0.2, 2.0, 0.05, 1.5]
    x = draws(mean, std)
    counts = torch.bincount(x.argmax(1), minlength=5)
    found = log_win_probability(double(mean), double(std)).exp()
    assert all(within_sampling_error(int(c), len(x), float(p)) for c, p in zip(counts, found, strict=True))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_top_set_probability_agrees_with_monte_carlo(n):
    mean, std = [0.3, -0.1, 0.0, 0.5], [1.0, 0.2, 2.0, 0.05]
    x = draws(mean, std)
    top = x.topk(n, dim=1).indices.sort(1).values
    found = log_top_set_probability(double(mean), double(std), n)
    assert sum(map(math.exp, found.values())) == pytest.approx(1.0, abs=1e-12)
    for members, log_probability in found.items():
        count = int((top == torch.tensor(members)).all(1).sum())
        assert within_sampling_error(count, len(x), math.exp(log_probability)), members


def test_top_set_of_one_is_the_winner():
    mean, std = double([0.2, 1.0, -0.5]), double([1.0, 0.5, 2.0])
    single = log_top_set_probability(mean, std, 1)
    torch.testing.assert_close(double([single[(k,)] for k in range(3)]), log_win_probability(mean, std))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_node_probability_agrees_with_monte_carlo(n):
    means = [[0.3, -0.1], [0.0, 0.5], [-0.4, 0.1]]
    stds = [[1.0, 0.3], [0.8, 0.05], [2.0, 0.7]]
    x = draws([m for edge in means for m in edge], [s for edge in stds for s in edge]).reshape(-1, 3, 2)
    best, operation = x.max(2)
    edges = best.topk(n, dim=1).indices.sort(1).values
    found = log_node_probability([double(m) for m in means], [double(s) for s in stds], n)
    assert sum(map(math.exp, found.values())) == pytest.approx(1.0, abs=1e-12)
    assert len(found) == math.comb(3, n) * 2**n
    for entries, log_probability in found.items():
        match = (edges == torch.tensor([e for e, _ in entries])).all(1)
        for e, o in entries:
            match &= operation[:, e] == o
        assert within_sampling_error(int(match.sum()), len(x), math.exp(log_probability)), entries


def test_node_that_keeps_every_edge_is_a_product_of_winners():
    means, stds = [double([0.3, -0.1]), double([0.0, 0.5])], [double([1.0, 0.3]), double([0.8, 0.05])]
    found = log_node_probability(means, stds, 2)
    wins = [log_win_probability(m, s) for m, s in zip(means, stds, strict=True)]
    for entries, log_probability in found.items():
        assert log_probability == pytest.approx(sum(float(wins[e][o]) for e, o in entries), abs=1e-8)

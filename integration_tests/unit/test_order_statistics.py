"""Winning probabilities against closed forms, independent quadrature and Monte Carlo."""

from __future__ import annotations

import itertools
import math
import resource

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from balenas_plugin.bayes import strongest
from balenas_plugin.bayes.laws import GumbelLaw, LogGammaLaw, NormalLaw
from balenas_plugin.bayes.laws.quadrature import quadrature
from balenas_plugin.bayes.order_statistics import log_win_probability
from balenas_plugin.bayes.strongest import StrongestEdges

vectors = st.integers(2, 6).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-5, 5), min_size=k, max_size=k), st.lists(st.floats(0.01, 10), min_size=k, max_size=k)
    )
)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def normal(mean, std):
    return NormalLaw(mean.double(), std.double() ** -2)


def strongest_edges(means, stds, n):
    return StrongestEdges([normal(mean, std) for mean, std in zip(means, stds, strict=True)], n)


@settings(max_examples=60, deadline=None)
@given(a=st.floats(-6, 6), b=st.floats(-6, 6), s=st.floats(0.01, 20), t=st.floats(0.01, 20))
def test_two_choices_have_a_closed_form(a, b, s, t):
    found = log_win_probability(double([a, b]), double([s, t]))
    expected = stats.norm.logcdf((a - b) / math.hypot(s, t))
    assert found[0].item() == pytest.approx(expected, rel=1e-9 if expected > -600 else 1e-6, abs=1e-10)


def test_a_wide_one_wins_beyond_the_reach_of_both():
    found = log_win_probability(double([-4.0, 1.0]), double([0.5, 0.0625]))
    assert found[0].item() == pytest.approx(stats.norm.logcdf(-5 / math.hypot(0.5, 0.0625)), rel=1e-12)


@pytest.mark.parametrize("difference", [5.0, 20.0, 60.0])
def test_tiny_probabilities_keep_their_relative_accuracy(difference):
    found = log_win_probability(double([0.0, difference]), double([1.0, 1.0]))
    assert found[0].item() == pytest.approx(stats.norm.logcdf(-difference / math.sqrt(2)), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(vectors)
def test_win_probability_equals_adaptive_quadrature(vector):
    mean, std = map(np.array, vector)

    def integrand(x, o):
        z = (x - mean) / std
        return math.exp(-(z[o] ** 2) / 2) / math.sqrt(2 * math.pi) / std[o] * np.prod(special.ndtr(np.delete(z, o)))

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


def top_sets(mean, std, n):
    """Return the sets of the n largest: edges with one operation each."""
    return strongest_edges(double(mean).split(1), double(std).split(1), n)


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
    found = dict(top_sets(mean, std, n).best_first())
    assert len(found) == math.comb(4, n)
    assert sum(map(math.exp, found.values())) == pytest.approx(1.0, abs=1e-12)
    for entries, log_probability in found.items():
        members = [edge for edge, _ in entries]
        count = int((top == torch.tensor(members)).all(1).sum())
        assert within_sampling_error(count, len(x), math.exp(log_probability)), members


def test_top_set_of_one_is_the_winner():
    mean, std = [0.2, 1.0, -0.5], [1.0, 0.5, 2.0]
    single = dict(top_sets(mean, std, 1).best_first())
    found = double([single[((k, 0),)] for k in range(3)])
    torch.testing.assert_close(found, log_win_probability(double(mean), double(std)))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_node_probability_agrees_with_monte_carlo(n):
    means = [[0.3, -0.1], [0.0, 0.5], [-0.4, 0.1]]
    stds = [[1.0, 0.3], [0.8, 0.05], [2.0, 0.7]]
    x = draws([m for edge in means for m in edge], [s for edge in stds for s in edge]).reshape(-1, 3, 2)
    best, operation = x.max(2)
    edges = best.topk(n, dim=1).indices.sort(1).values
    found = dict(strongest_edges([double(m) for m in means], [double(s) for s in stds], n).best_first())
    assert sum(map(math.exp, found.values())) == pytest.approx(1.0, abs=1e-12)
    assert len(found) == math.comb(3, n) * 2**n
    for entries, log_probability in found.items():
        match = (edges == torch.tensor([e for e, _ in entries])).all(1)
        for e, o in entries:
            match &= operation[:, e] == o
        assert within_sampling_error(int(match.sum()), len(x), math.exp(log_probability)), entries


def test_node_that_keeps_every_edge_is_a_product_of_winners():
    means, stds = [double([0.3, -0.1]), double([0.0, 0.5])], [double([1.0, 0.3]), double([0.8, 0.05])]
    found = dict(strongest_edges(means, stds, 2).best_first())
    wins = [log_win_probability(m, s) for m, s in zip(means, stds, strict=True)]
    for entries, log_probability in found.items():
        assert log_probability == pytest.approx(sum(float(wins[e][o]) for e, o in entries), abs=1e-12)


def rows_of(quantities):
    """Yield named means and sigmas of many Gaussians."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(quantities, generator=generator, dtype=torch.float64)
    uniform = torch.rand(quantities, generator=generator, dtype=torch.float64)
    yield "flat", torch.zeros_like(normal), torch.ones_like(normal)
    yield "early", 0.1 * normal, torch.ones_like(normal)
    yield "late", normal, 0.3 + 0.7 * uniform
    yield "wide", 3 * normal, 10 ** (4 * uniform - 3)
    yield "apart", torch.arange(float(quantities)).double(), torch.full_like(normal, 0.1)


def test_many_choices_have_the_probabilities_of_quadrature_with_every_ones_own_segments(monkeypatch):
    found = [log_win_probability(mean, std) for _, mean, std in rows_of(100)]
    monkeypatch.setattr("balenas_plugin.bayes.laws.normal._WITH_ENDS_OF_THEIR_OWN", 100)
    for (name, mean, std), many in zip(rows_of(100), found, strict=True):
        few = log_win_probability(mean, std)
        torch.testing.assert_close(many.exp(), few.exp(), rtol=0, atol=1e-13, msg=name)
        probable = few > -600
        torch.testing.assert_close(many[probable], few[probable], rtol=1e-9, atol=0, msg=name)


@pytest.mark.parametrize("count", [2000, 5000])
def test_thousands_of_choices_take_few_nodes_and_little_memory(count):
    for name, mean, std in rows_of(count):
        assert len(quadrature(normal(mean, std).ends())[0]) < 5000, name
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = log_win_probability(mean, std)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_equal_choices_win_equally_often():
    found = log_win_probability(torch.zeros(3000), torch.ones(3000))
    torch.testing.assert_close(found.exp(), torch.full((3000,), 1 / 3000, dtype=torch.float64), rtol=1e-12, atol=0)


def test_one_far_above_many_others():
    mean = torch.zeros(300, dtype=torch.float64)
    mean[7] = 30
    found = log_win_probability(mean, torch.ones(300))
    loses = 299 * stats.norm.sf(30 / math.sqrt(2))
    assert found[7].item() == pytest.approx(0, abs=1e-12)
    assert found[0].exp().item() == pytest.approx(loses / 299, rel=1e-3)  # ties of two of the others are rarer still


def quadrature_of_a_set(mean, std, members):
    """Return log P(these are the largest) by adaptive quadrature over the smallest of them."""
    others = [k for k in range(len(mean)) if k not in members]

    inside, outside = (np.array(list(zip(mean, std, strict=True)))[rows].T for rows in (list(members), others))

    def integrand(x):
        z, out = ((x - m) / s for m, s in (inside, outside))
        hazards = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) / inside[1] / special.ndtr(-z)
        return np.prod(special.ndtr(out)) * np.prod(special.ndtr(-z)) * hazards.sum()

    return math.log(integrate.quad(integrand, -6, 9, points=range(-5, 9), epsabs=0, limit=200)[0])


@pytest.mark.parametrize(("count", "n"), [(30, 10), (20, 5), (100, 2), (40, 20)])
def test_best_sets_of_a_huge_number_come_one_by_one(count, n):
    for name, mean, std in itertools.islice(rows_of(count), 3):
        found = list(itertools.islice(top_sets(mean.tolist(), std.tolist(), n).best_first(), 10))
        values = [value for _, value in found]
        assert values == sorted(values, reverse=True)
        assert len({entries for entries, _ in found}) == 10
        if name == "early":  # equal sigmas
            assert {edge for edge, _ in found[0][0]} == set(mean.topk(n).indices.tolist())
        if name == "flat":
            assert values == pytest.approx([-math.log(math.comb(count, n))] * 10, rel=1e-12)
        if name == "late":
            members = [edge for edge, _ in found[3][0]]
            assert values[3] == pytest.approx(quadrature_of_a_set(mean.tolist(), std.tolist(), members), rel=1e-7)


@pytest.mark.parametrize("seed", range(12))
def test_sets_come_in_order_without_a_complete_list(seed, monkeypatch):
    """Sigmas differ by factors of up to a thousand, so that which input is the stronger depends on where they lie."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(9, generator=generator) * 10 ** torch.linspace(-1, 1, 12)[seed]
    std = 10 ** (3 * torch.rand(9, generator=generator) - 2)
    node = [torch.split(mean, 3), torch.split(std, 3), 2]
    for arguments in ((mean.split(1), std.split(1), 4), node):
        complete = list(strongest_edges(*arguments).best_first())
        monkeypatch.setattr(strongest, "_LISTED", 0)
        found = list(strongest_edges(*arguments).best_first())
        monkeypatch.undo()
        assert dict(found) == pytest.approx(dict(complete), rel=1e-12)
        assert [value for _, value in found[:60]] == pytest.approx([value for _, value in complete[:60]], rel=1e-12)
        assert sum(math.exp(value) for _, value in found) == pytest.approx(1, abs=1e-12)


def test_two_camps_of_which_one_needs_the_other_left_out():
    """Two narrow inputs and two wide ones: a mixed pair is less probable than either camp, which it lies between."""
    found = list(top_sets([0.0, 0.0, -0.1, -0.1], [0.01, 0.01, 10.0, 10.0], 2).best_first())
    assert [{edge for edge, _ in entries} for entries, _ in found[:2]] == [{0, 1}, {2, 3}]


def test_what_no_node_chooses_is_impossible():
    node = strongest_edges([torch.zeros(2), torch.zeros(2)], [torch.ones(2), torch.ones(2)], 2)
    assert node.log_probability(((0, 1), (1, 0))) == pytest.approx(math.log(0.25))
    assert node.log_probability(((1, 0), (0, 1))) == pytest.approx(math.log(0.25))
    for outcome in (((0, 0), (0, 1)), ((0, 0),), ((0, 0), (1, 2))):
        assert node.log_probability(outcome) == -math.inf


def test_improbable_sets_are_exact():
    found = dict(top_sets([0.0, 40.0], [1.0, 1.0], 1).best_first())
    assert found[((0, 0),)] == pytest.approx(stats.norm.logcdf(-40 / math.sqrt(2)), rel=1e-9)


# -- other laws -------------------------------------------------------------------------------------------------------


def sets_of(law, n):
    return StrongestEdges([law[k : k + 1] for k in range(len(law))], n)


@settings(max_examples=40, deadline=None)
@given(a=st.floats(1e-3, 300), b=st.floats(1e-3, 300))
def test_the_larger_of_two_dirichlet_weights_has_a_closed_form(a, b):
    found = LogGammaLaw(double([a, b])).log_win_probability().exp()
    assert found[0].item() == pytest.approx(stats.beta.sf(0.5, a, b), rel=1e-8, abs=1e-14)


def test_dirichlet_weights_from_tiny_to_huge_concentrations():
    near_zero = LogGammaLaw(double([1e-8, 1e-8, 1e-9])).log_win_probability().exp()  # one weight has it all
    assert near_zero.tolist() == pytest.approx([10 / 21, 10 / 21, 1 / 21], rel=1e-6)
    beta = double([1e6, 1e6 + 1000])  # nearly Gaussian
    assert LogGammaLaw(beta).log_win_probability().exp()[1].item() == pytest.approx(
        stats.beta.sf(0.5, *beta.flip(0).tolist()), rel=1e-6
    )


def test_sets_under_gumbel_noise_are_draws_without_replacement():
    a = double([0.3, -1.0, 2.0, 0.1, -1e4])
    p = a.softmax(-1).tolist()
    for entries, log_probability in sets_of(GumbelLaw(a), 2).best_first():
        (i, _), (j, _) = entries
        if 4 not in (i, j):
            assert math.exp(log_probability) == pytest.approx(p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])), rel=1e-9)


@pytest.mark.parametrize("of", [GumbelLaw, lambda a: LogGammaLaw(a.exp()), lambda a: LogGammaLaw(0.01 * a.exp())])
def test_many_choices_and_sets_of_other_laws(of):
    a = torch.randn(300, generator=torch.Generator().manual_seed(0)).double()
    law = of(a)
    assert len(quadrature(law.ends())[0]) < 2000
    assert law.log_win_probability().exp().sum().item() == pytest.approx(1, abs=1e-12)
    found = list(itertools.islice(sets_of(law[:40], 20).best_first(), 10))
    values = [value for _, value in found]
    assert values == sorted(values, reverse=True)
    assert {edge for (edge, _) in found[0][0]} == set(a[:40].topk(20).indices.tolist())

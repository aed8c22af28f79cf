"""The contract of every distribution over mixing weights: draws, gradients, updates, dropped choices, resume."""

from __future__ import annotations

import pytest
import torch

from balenas_plugin.bayes import SeededNoise
from balenas_plugin.bayes.laws import GumbelLaw
from balenas_plugin.distributions import (
    ChosenDistribution,
    Distribution,
    distribution_options,
    get_distribution,
    list_distributions,
)
from balenas_plugin.errors import OptionError

from .distribution_members import COSTS, MEMBERS, SAMPLED, Noisy, every_member, every_member_and_users, linear, make


def test_every_distribution_is_in_the_battery():
    assert list_distributions() == sorted(MEMBERS)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(OptionError, match=r"unknown distribution 'dirichlett'.*did you mean 'dirichlet'"):
        get_distribution("dirichlett")


@every_member
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_on_the_simplex_in_the_dtype_of_the_parameters(name, dtype):
    distribution = make(name, dtype=dtype)
    for draw in (distribution.sample(), distribution.sample(), distribution.mean()):
        for label, weights in draw.weights.items():
            assert weights.dtype == dtype
            assert weights.shape == distribution.parameters[label].shape
            assert (weights >= 0).all()
            assert float(weights.detach().sum()) == pytest.approx(1, abs=1e-6)
            if label in draw.chosen:
                assert weights[draw.chosen[label]] == 1


@every_member
def test_gradients_are_those_of_finite_differences(name):
    """At the same noise; a hard draw has the gradient of its relaxed sample.

    Where a sample's derivative is the distribution's and not the noise's (Dirichlet), its mean is that of the mean
    weights, for a loss that is linear in them.
    """
    start, step = make(name).parameters, 1e-6

    def cost(label, k, distance):
        distribution = make(name)
        distribution.parameters[label][k] += distance
        relaxed = distribution.sample().outputs
        return float(sum((relaxed[key].detach() * COSTS[key]).sum() for key in COSTS))

    slopes = {
        label: torch.tensor([(cost(label, k, step) - cost(label, k, -step)) / (2 * step) for k in range(len(values))])
        for label, values in start.items()
    }
    found = make(name).sample().pull_back(COSTS)
    if all(torch.allclose(found[label], slope.double(), rtol=0, atol=1e-6) for label, slope in slopes.items()):
        return
    distribution = make(name)
    draws = [distribution.sample().pull_back(COSTS) for _ in range(1500)]
    leaves = {label: p.clone().requires_grad_() for label, p in start.items()}
    mean = sum((distribution.mean_weights(leaf) * COSTS[label]).sum() for label, leaf in leaves.items())
    for label, exact in zip(leaves, torch.autograd.grad(mean, list(leaves.values())), strict=True):
        each = torch.stack([g[label] for g in draws])
        error = each.std(0) / len(draws) ** 0.5
        assert ((each.mean(0) - exact).abs() < 5 * error + 1e-3 * exact.abs()).all()


@pytest.mark.parametrize("name", SAMPLED)
def test_the_largest_weight_of_a_draw_is_as_probable_as_it_says(name):
    distribution, draws = make(name), 1_024 if name == "hard-gumbel" else 16_384
    counted = distribution.counted_probabilities()
    for label, log_p in distribution.log_probabilities().items():
        p = log_p.exp()
        assert float(p.sum()) == pytest.approx(1, abs=1e-9)
        assert ((counted[label] - p).abs() < 5 * (p * (1 - p) / draws).sqrt() + 1 / draws).all()


# -- what it says -----------------------------------------------------------------------------------------------------


@every_member_and_users
def test_the_order_of_labels_makes_no_difference(name):
    results = []
    for labels in (("a", "b"), ("b", "a")):
        distribution = make(name, labels=labels)
        distribution.update(linear(COSTS))
        sample = distribution.posterior().sample(SeededNoise(1))
        results.append((distribution.sample().weights, distribution.parameters, sample))
    for first, second in zip(*results, strict=True):
        assert all(torch.equal(first[label], second[label]) for label in ("a", "b"))


SLOW = {"gaussian": {}, "controller": {"lr": 0.01}}
"""name -> options under which it learns as fast as the others, where they are not a rate of 0.2."""


@every_member
def test_an_update_lowers_the_loss_where_anything_is_learned(name):
    distribution = make(name, num_mc_samples=4, **SLOW.get(name, {"lr": 0.2}))
    before = mean_cost(distribution)
    sign = -1 if distribution.needs_accuracy else 1
    for k in range(30):
        distribution.new_epoch(k, 30)
        distribution.update(linear({label: sign * cost for label, cost in COSTS.items()}))
    assert (mean_cost(distribution) < before - 0.05) == distribution.learns
    assert distribution.learns or mean_cost(distribution) == before


def mean_cost(distribution):
    return float(sum((w.detach() * COSTS[label]).sum() for label, w in distribution.mean().weights.items()))


@pytest.mark.parametrize("name", [name for name in MEMBERS if not get_distribution(name).draws_one])
def test_what_is_dropped_for_a_while_has_no_part_and_what_is_kept_can_be_scaled(name):
    distribution = make(name, num_mc_samples=2)
    parameter = distribution.parameters["a"]
    start = parameter.clone()
    before = {k: v for k, v in distribution.optimizer.state[parameter].items() if k in ("s", "m")}
    with distribution.only({"a": [0, 2]}):
        for draw in (distribution.sample(), distribution.mean()):
            assert draw.weights["a"][1] == 0
            assert float(draw.weights["a"].detach().sum()) == pytest.approx(1)
        distribution.update(linear(COSTS))
    assert distribution.kept == {}
    assert distribution.mask["a"].all()
    if name == "gaussian":
        moved = [before[k] != distribution.optimizer.state[parameter][k] for k in before] + [parameter != start]
        assert [m.tolist() for m in moved] == [[True, False, True]] * 3
    else:
        assert (parameter.grad != 0).tolist() == [True, False, True]
    weights, factor = distribution.mean().weights["a"].detach(), torch.tensor(0.3, dtype=torch.float64)
    parameter[[0, 2]] = distribution.scaled(parameter[[0, 2]], factor)
    scaled = distribution.mean().weights["a"].detach()
    assert torch.allclose(scaled[[0, 2]] / scaled[1], factor * weights[[0, 2]] / weights[1])


@every_member
def test_a_draw_without_any_gradient_has_none_to_pull_back(name):
    assert make(name).sample().pull_back({}) == {}


@pytest.mark.parametrize("name", [name for name in MEMBERS if get_distribution(name).needs_gradient])
def test_a_label_without_a_gradient_is_left_alone(name):
    distribution = make(name)
    before = distribution.parameters["b"].clone()
    distribution.update(lambda draw: (torch.zeros(()), {"a": COSTS["a"]}))
    assert torch.equal(distribution.parameters["b"], before)


@every_member
def test_what_is_dropped_has_no_weight_and_no_probability(name):
    distribution = make(name)
    distribution.keep("b", [1, 3])
    distribution.update(linear(COSTS))
    for weights in (distribution.sample().weights["b"], distribution.mean().weights["b"]):
        assert weights[[0, 2]].tolist() == [0, 0]
        assert float(weights.detach().sum()) == pytest.approx(1)
    assert distribution.scores()["b"][[0, 2]].tolist() == [-torch.inf, -torch.inf]
    p = distribution.log_probabilities()["b"].exp()
    assert p[[0, 2]].tolist() == [0, 0]
    assert float(p.sum()) == pytest.approx(1)
    distribution.keep_best(2)  # of "a" too
    assert int(distribution.mask["a"].sum()) == 2
    with pytest.raises(OptionError, match=r"label 'b': cannot keep choices \[0\]; there are \[1, 3\]"):
        distribution.keep("b", [0])
    distribution.keep("b", [3])
    assert distribution.sample().weights["b"].tolist() == [0, 0, 0, 1]
    assert all(torch.isfinite(p).all() for p in distribution.sample().pull_back(COSTS).values())


@every_member
def test_entropy_falls_when_a_choice_is_dropped(name):
    distribution = make(name)
    before = distribution.entropy()
    distribution.keep("b", [0])
    after = distribution.entropy()
    of_choices = all(isinstance(law, GumbelLaw) for law in distribution.laws().values())
    assert after < before if of_choices else after != before  # that of real numbers is differential


@every_member
def test_resumed_equals_uninterrupted(name, tmp_path):
    one = make(name, num_mc_samples=2)
    for _ in range(3):
        one.update(linear(COSTS))
    one.keep("b", [0, 2])
    torch.save({"parameters": one.parameters, "state": one.state_dict()}, tmp_path / "state.pt")
    other = make(name, num_mc_samples=2, seed=99)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    with torch.no_grad():
        for label, p in other.parameters.items():
            p.copy_(saved["parameters"][label])
    other.load_state_dict(saved["state"])
    for distribution in (one, other):
        for _ in range(3):
            distribution.update(linear(COSTS))
    for label in one.parameters:
        assert torch.equal(one.parameters[label], other.parameters[label])
        assert torch.equal(one.sample().weights[label], other.sample().weights[label])


def test_antithetic_draws_mirror_the_logits():
    distribution = make("gaussian", num_mc_samples=2, antithetic=True)
    logits = [{label: w.log() - w.log().mean() for label, w in draw.weights.items()} for draw in distribution.draws()]
    for label, mu in distribution.parameters.items():
        torch.testing.assert_close((logits[0][label] + logits[1][label]) / 2, mu - mu.mean())


def test_torchs_own_distributions_draw_from_the_seed():
    before, drawn = torch.get_rng_state(), []
    for noise in (SeededNoise(3), SeededNoise(3)):
        for _ in range(2):
            with noise.as_torchs():
                drawn.append(torch.distributions.Dirichlet(torch.ones(3)).sample())
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.stack(drawn[:2]), torch.stack(drawn[2:]))
    assert not torch.equal(drawn[0], drawn[1])


def test_what_cannot_be_kept_or_has_no_name_is_refused():
    distribution = make("point")
    for label, indices in (("a", [7]), ("a", []), ("c", [0])):
        with pytest.raises(OptionError, match=f"label '{label}': cannot keep choices"):
            distribution.keep(label, indices)
    nameless = type("Nameless", (Distribution,), {"draw": Noisy.draw})
    with pytest.raises(OptionError, match="the distribution Nameless has no name"):
        distribution_options(nameless)


def test_a_constructor_without_a_rate_is_not_given_one():
    class Plain(Noisy):
        def __init__(self, parameters, *, seed=0):
            super().__init__(parameters, lr=0.5, seed=seed)

    made = ChosenDistribution(Plain, {}, lr=0.1)({"a": torch.zeros(2)}, seed=0)
    assert made.optimizer.param_groups[0]["lr"] == 0.5


def test_temperatures_of_whole_searches():
    hard = make("hard-gumbel", temperature=(10, 0.1))
    temperatures = []
    for epoch in range(3):
        hard.new_epoch(epoch, 3)
        temperatures.append(hard.temperature)
    assert temperatures == pytest.approx([10, 5.05, 0.1])
    with pytest.raises(OptionError, match="this search has no last one: set max_epochs"):
        hard.new_epoch(0, -1)
    with pytest.raises(OptionError, match="temperature must be a positive number"):
        make("gumbel", temperature=(1, 0))
    with pytest.raises(OptionError, match="did you mean 'l2'"):
        make("dirichlet", anchor="l1")


def test_theta_starts_uniform_and_takes_the_gradient_in_the_weights():
    """Not the one in the logits, which has the softmax's Jacobian; an entry never falls below the floor's share."""
    distribution = make("exponentiated-gradient", lr=0.5)
    distribution.start()
    assert distribution.mean().weights["a"].tolist() == pytest.approx([1 / 3] * 3)
    distribution.update(linear(COSTS))
    expected = torch.exp(-0.5 * COSTS["a"])
    torch.testing.assert_close(distribution.mean().weights["a"].detach(), expected / expected.sum())
    for _ in range(60):
        distribution.update(linear(COSTS))
    assert float(distribution.mean().weights["b"].detach().min()) == pytest.approx(1e-5, rel=0.5)


def test_a_decided_label_is_fixed_at_the_start_of_an_epoch():
    distribution = make("categorical", fix_margin=0.5, num_mc_samples=4)
    with torch.no_grad():
        distribution.parameters["a"].copy_(torch.tensor([0.0, 3.0, 0.0]))
        distribution.parameters["b"].zero_()
    distribution.update(linear(COSTS))
    before = distribution.parameters["a"].clone()
    distribution.new_epoch(1, 3)
    distribution.update(linear(COSTS))
    assert torch.equal(distribution.parameters["a"], before)
    assert {distribution.sample().chosen["a"] for _ in range(50)} == {1}
    assert len({distribution.sample().chosen["b"] for _ in range(50)}) == 4
    resumed = make("categorical", fix_margin=0.5)
    resumed.load_state_dict(distribution.state_dict())
    assert resumed.fixed == {"a"}


def test_two_paths_leave_all_others_as_they_are_and_a_zero_learns_nothing():
    """Whatever momentum and decay would do."""
    distribution = make("binary-gates", mode="two", betas=(0.9, 0.999), weight_decay=0.1, lr=0.1)
    distribution.set_zeros({"a": [0]})
    met = set()
    for _ in range(40):
        before = {label: p.clone() for label, p in distribution.parameters.items()}
        seen = []
        distribution.update(lambda draw, seen=seen: (seen.append(draw), linear(COSTS)(draw))[1])
        for label, p in distribution.parameters.items():
            met.add((label, seen[0].chosen[label] == 0))
            moved, zero = (p != before[label]).nonzero().flatten().tolist(), seen[0].chosen[label] == 0
            if label == "a" and zero:
                assert moved == []
                assert seen[0].others[label] == "none"
                continue
            assert set(moved) == {seen[0].chosen[label], *seen[0].others[label]}
            torch.testing.assert_close(p.exp().sum(), before[label].exp().sum())
    assert {("a", True), ("a", False), ("b", False)} <= met
    assert {*distribution.training_draw().others.values()} == {"none"}


def test_costs_are_expected_under_probabilities_and_reach_the_parameters():
    """By the gradient of the expectation, exact for hard draws too; 'two' expects them of the two."""
    for name in MEMBERS.keys() - {"controller", "uniform"}:  # which refuse costs
        distribution = make(name)
        draw = next(iter(distribution.draws()))
        draw.of_costs = {"b": COSTS["b"]}
        (gradient,) = draw.pull_back({}).values()
        if name in ("categorical", "importance-weighted", "binary-gates", "point"):
            weights = distribution.parameters["b"].softmax(-1)
            expected = weights * (COSTS["b"] - weights @ COSTS["b"])
            torch.testing.assert_close(gradient, expected)
        torch.testing.assert_close(draw.expected["b"].detach().sum(), torch.tensor(1.0).double())
        assert gradient.abs().sum() > 0


def losses_of(draw):
    """Return an evaluation without gradients, whose loss is the cost of the candidate drawn under "a"."""
    return COSTS["a"][draw.chosen["a"]], {}


def test_importance_weights_are_likelihoods_and_one_draw_taking_all_is_warned_of(caplog):
    sharp = make("importance-weighted", num_mc_samples=16, temperature=1000.0)
    mild = make("importance-weighted", num_mc_samples=16, temperature=1e-6, weight_decay=0.0)
    for _ in range(20):
        sharp.update(losses_of)
        mild.update(losses_of)
    assert mild.metrics()["effective_sample_size"] == pytest.approx(16, rel=1e-3)
    costs = COSTS["a"][sharp.drawn["a"]]
    torch.testing.assert_close(sharp.importance, (-1000 * costs).softmax(0))
    assert "one draw takes nearly all" not in caplog.text  # many draws are the same architecture here
    alone = make("importance-weighted", num_mc_samples=2, temperature=1000.0)
    for k in range(20):
        again = make("importance-weighted", num_mc_samples=2, temperature=1000.0)
        again.load_state_dict(alone.state_dict())  # goes on counting
        alone = again
        clock = iter(range(2))
        alone.update(lambda draw, clock=clock: (torch.tensor(float(next(clock))).double(), {}))
        assert ("draws were worth 1.00 on average in the first 20" in caplog.text) == (k == 19)


def test_weights_are_trained_at_draws_in_the_share_of_their_importance():
    distribution = make("importance-weighted", num_mc_samples=3)
    assert distribution.training_draw().chosen.keys() == {"a", "b"}  # of a warm-up
    distribution.update(losses_of)
    distribution.drawn = {"a": torch.tensor([0, 1, 2]), "b": torch.tensor([3, 0, 1])}
    distribution.importance = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    chosen = [tuple(distribution.training_draw().chosen.values()) for _ in range(2000)]
    shares = [chosen.count(pair) / 2000 for pair in ((0, 3), (1, 0), (2, 1))]
    assert shares == pytest.approx([0.1, 0.6, 0.3], abs=0.05)
    resumed = make("importance-weighted", num_mc_samples=3)
    resumed.load_state_dict(distribution.state_dict())
    assert resumed.training_draw().chosen == distribution.training_draw().chosen


def test_weights_of_edges_are_learned_as_the_distribution_learns():
    """GAEA's by their own gradient, whatever gradient in the logarithms it comes as; others' by Adam."""
    start, slope = torch.tensor([0.3, -0.2, 0.1]).double(), torch.tensor([1.0, -2.0, 0.5]).double()
    logits = {"cell/3": start.clone().requires_grad_(), "cell/2": torch.zeros(2).double()}
    edges = get_distribution("exponentiated-gradient").edges(logits, {"lr": 0.1})
    (gradient,) = torch.autograd.grad((logits["cell/3"].softmax(-1) * slope).sum(), logits["cell/3"])
    edges.step([[gradient, None], [gradient, None]])
    torch.testing.assert_close(logits["cell/3"].softmax(-1).detach(), (start - 0.1 * slope).softmax(-1))
    assert logits["cell/2"].tolist() == [0, 0]
    edges.load_state_dict(edges.state_dict())
    edges.start()
    assert logits["cell/3"].tolist() == [0, 0, 0]
    adam = get_distribution("point").edges({"node": torch.zeros(2)}, {"lr": 0.1, "num_mc_samples": 1})
    assert adam.state_dict()["param_groups"][0]["weight_decay"] == 1e-3


def test_products_with_weights_of_edges_are_of_means():
    distribution = make("dirichlet")
    distribution.weighs_edges = True
    for label, weights in distribution.mean().weights.items():
        torch.testing.assert_close(distribution.scores()[label].exp(), weights.detach())

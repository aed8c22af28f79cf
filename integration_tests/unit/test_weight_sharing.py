"""Uniform paths, the recurrent controller, and how many architecture steps an iteration has."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from balenas_plugin.bayes import SeededNoise
from balenas_plugin.distributions import Distribution, get_distribution
from balenas_plugin.distributions.uniform import uniform_path
from balenas_plugin.search import Order, Search

from .distribution_members import COSTS, linear, make


class Host:
    """Counts steps, and knows a draw's accuracy."""

    network_weights = ()

    def __init__(self, iterations: int | None = None) -> None:
        self.iterations, self.steps, self.paths = iterations, [], []

    def begin(self):
        pass

    def mixing(self, draw):
        self.drawn = draw
        return nullcontext()

    def validation_accuracy(self, k):
        self.steps.append("architecture")
        return (COSTS["a"][self.drawn.chosen["a"]] + 1) / 2

    def step_weights(self, clipped_with):
        clipped_with()
        self.steps.append("weights")
        self.paths.append(tuple(self.drawn.chosen.values()))

    def average(self, tensors, like):
        return list(tensors)


def test_paths_are_uniform_over_what_was_not_dropped() -> None:
    distribution = make("point")
    distribution.keep("b", [0, 2, 3])
    search, host, draws = Search(distribution, Order(weight_step="uniform", clip_with="architecture")), Host(), 3000
    for _ in range(draws):
        search.weight_step(host)
    pairs = {(a, b) for a in range(3) for b in (0, 2, 3)}
    assert set(host.paths) == pairs
    for pair in pairs:
        assert host.paths.count(pair) / draws == pytest.approx(1 / 9, abs=5 * (8 / 81 / draws) ** 0.5)
    gradients = uniform_path(distribution).pull_back(COSTS)
    assert all(not g.any() for g in gradients.values())


def test_what_learns_nothing_takes_no_architecture_steps() -> None:
    host = Host()
    Search(make("uniform"), Order(weight_step="sample")).iteration(host, epoch=0, index=0)
    assert host.steps == ["weights"]


@pytest.mark.parametrize(("iterations", "wanted", "steps"), [(7, 3, 3), (2, 5, 5), (None, 5, 2)])
def test_architecture_steps_are_spread_over_an_epoch(iterations: int | None, wanted: int, steps: int) -> None:
    order = Order(first="weights", weight_step="sample", architecture_steps=wanted, architecture_every=3)
    search, host = Search(make("controller", num_mc_samples=1), order), Host(iterations)
    for index in range(iterations or 7):
        search.iteration(host, epoch=0, index=index)
    assert host.steps.count("architecture") == steps
    assert host.steps[0] == "weights"
    if iterations == 7:
        assert host.steps[2:4] == ["weights", "architecture"]


def by_hand(distribution: Distribution, chosen: dict[str, torch.Tensor], baseline: float | None):
    """Return the gradients of REINFORCE at given draws, sample by sample, and the last baseline."""
    policy, masks = distribution.policy, distribution.mask
    total, last = 0.0, None
    for k in range(len(chosen["a"])):
        inputs, state, log_p, entropy = policy.first, None, 0.0, 0.0
        for label, mask in masks.items():
            state = policy.cell(inputs, state)
            logits = 2.5 * torch.tanh(policy.head(state[0])[0, : len(mask)] / policy.temperature)
            p = logits.softmax(-1)
            log_p, entropy = log_p + p[chosen[label][k]].log(), entropy - (p * p.log()).sum()
            inputs = policy.embedding[chosen[label][k]][None]
        accuracy = (COSTS["a"][chosen["a"][k]] + 1) / 2
        reward = accuracy + distribution.entropy_weight * entropy
        last = accuracy if baseline is None else baseline + 0.01 * (reward - baseline)
        total = total - log_p * (reward - last) / len(chosen["a"])
    gradients = torch.autograd.grad(total, list(policy.parameters()))
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [g * min(1.0, 5 / (float(norm) + 1e-6)) for g in gradients], float(last.detach())


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_policy_follows_the_rewards_above_the_baseline(epoch: int) -> None:
    """Its Adam has no first moment, so after one step a parameter has moved by lr g / (|g| + eps)."""
    distribution = make("controller", num_mc_samples=6, entropy_weight=0.1, lr=0.01)
    if epoch:
        distribution.load_state_dict({**distribution.state_dict(), "latest": 0.3})
        distribution.new_epoch(1, 2)
    twin = make("controller", num_mc_samples=6, entropy_weight=0.1, lr=0.01)
    drawn: list[dict[str, int]] = []

    def evaluate(draw):
        drawn.append(draw.chosen)
        return (COSTS["a"][draw.chosen["a"]] + 1) / 2, {}

    error = distribution.update(evaluate)
    chosen = {label: torch.tensor([each[label] for each in drawn]) for label in "ab"}
    assert float(error) == pytest.approx(float(1 - ((COSTS["a"][chosen["a"]] + 1) / 2).mean()))
    gradients, last = by_hand(twin, chosen, 0.3 if epoch else None)
    for parameter, before, g in zip(distribution.policy.parameters(), twin.policy.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter, before - 0.01 * g / (g.abs() + 1e-3))
    assert distribution.state_dict()["latest"] == pytest.approx(last)
    distribution.new_epoch(2, 3)
    assert distribution.baseline == pytest.approx(last)


def test_choices_depend_on_those_before_them_and_the_parameters_say_each_by_itself() -> None:
    distribution = get_distribution("controller")(
        {"a": torch.zeros(2), "b": torch.zeros(2)}, num_mc_samples=32, lr=0.02
    )
    for epoch in range(40):  # equal choices are rewarded
        distribution.new_epoch(epoch, 40)
        distribution.update(lambda draw: (torch.tensor(float(draw.chosen["a"] == draw.chosen["b"])), {}))
    pairs = [tuple(distribution.sample().chosen.values()) for _ in range(400)]
    equal = sum(a == b for a, b in pairs) / len(pairs)
    p = {label: log_p.exp() for label, log_p in distribution.log_probabilities().items()}
    assert equal > 0.8
    (first, _), (_, second) = distribution.policy.rollout(list(distribution.mask.values()), 1000, SeededNoise(1))
    assert second[first == 0, 0].mean() > second[first == 1, 0].mean() + 0.1
    for place, label in enumerate("ab"):
        share = sum(pair[place] for pair in pairs) / len(pairs)
        assert share == pytest.approx(float(p[label][1]), abs=5 * 0.5 / len(pairs) ** 0.5)


def test_the_same_seed_makes_the_same_controller() -> None:
    before = torch.get_rng_state()
    one, same, other = (make("controller", seed=seed) for seed in (1, 1, 2))
    for distribution in (one, same, other):
        distribution.update(linear(COSTS))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one.parameters[label], same.parameters[label]) for label in COSTS)
    assert not all(torch.equal(one.parameters[label], other.parameters[label]) for label in COSTS)

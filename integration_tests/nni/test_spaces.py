"""Every kind of model space: a search, its export, and the probabilities of its architectures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
import torch

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.supernets import supernet_decisions
from balenas_plugin.adapters.nni.supernets.supernet_decisions import decisions_of, exported
from balenas_plugin.bayes.architectures import DescribedArchitecture

from .searches import classification, loaders, search, set_posterior
from .spaces import CASES, Case

DRAWS = 500


@dataclass(frozen=True)
class Found:
    """A finished search, and all its architectures as it lists them."""

    case: Case
    strategy: BaLeNAS
    ranked: list[DescribedArchitecture]


@pytest.fixture(scope="module", params=CASES)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A finished search of every space, with a posterior that distinguishes its architectures."""
    torch.manual_seed(0)
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    evaluator = classification(folder, **loaders(shape=case.shape))
    strategy = search(case.space(), evaluator, num_mc_samples=2, arc_learning_rate=0.1)
    set_posterior(strategy.oneshot_module, seed=1)
    return Found(case, strategy, list(islice(strategy.iterate_samples(), 1000)))


def network(architecture: dict[str, Any]) -> Hashable:
    """Return what distinguishes two networks: the operations of a cell's node add up, so their order does not."""
    nodes: dict[str, list[Hashable]] = {}
    rest = []
    for key, value in architecture.items():
        scope, _, place = key.rpartition("/")
        if scope and place.startswith("op_"):
            node = place.split("_")[1]
            nodes.setdefault(f"{scope}/{node}", []).append((value, *architecture[key.replace("/op_", "/input_")]))
        elif not scope:
            rest.append((key, tuple(sorted(value)) if isinstance(value, list) else value))
    return tuple(sorted(rest)), tuple((node, tuple(sorted(chosen))) for node, chosen in sorted(nodes.items()))


def test_search_moves_the_posterior(found):
    steps = {state["step"] for state in found.strategy.oneshot_module.distribution.optimizer.state.values()}
    assert steps == {2}


def test_first_export_is_the_argmax_of_mu(found):
    assert found.ranked[0].sample == exported(found.strategy.oneshot_module)


def test_every_architecture_is_listed_once(found):
    networks = [network(r.sample) for r in found.ranked]
    assert len(set(networks)) == found.case.size
    assert len(networks) == found.case.size


def test_architectures_after_the_first_come_from_the_most_to_the_least_probable(found):
    rest = [r.log_probability for r in found.ranked[1:]]
    assert rest == sorted(rest, reverse=True)
    for ranked in found.ranked:
        assert math.isclose(sum(ranked.decisions.values()), ranked.log_probability, abs_tol=1e-12)


def test_probabilities_of_all_architectures_add_up_to_one(found):
    assert math.isclose(sum(math.exp(r.log_probability) for r in found.ranked), 1, abs_tol=1e-5)


@torch.no_grad()
def test_probabilities_are_the_shares_of_exported_draws(found, monkeypatch):
    expected = Counter[Hashable]()
    for ranked in found.ranked:
        expected[network(ranked.sample)] += math.exp(ranked.log_probability)
    module, posterior = found.strategy.oneshot_module, found.strategy.posterior
    decisions = decisions_of(module.model)  # once, and not for each draw
    monkeypatch.setattr(supernet_decisions, "decisions_of", lambda model: decisions)
    alphas = module.named_arch_parameters()
    generator = torch.Generator().manual_seed(2)
    counts = Counter[Hashable]()
    for _ in range(DRAWS):
        for label, alpha in alphas.items():
            noise = torch.randn(alpha.shape, generator=generator)
            alpha.copy_(posterior.mean[label] + noise * posterior.std[label])
        counts[network(exported(module))] += 1
    for label, alpha in alphas.items():
        alpha.copy_(posterior.mean[label])
    assert set(counts) <= set(expected)
    for architecture, p in expected.items():
        sigma = math.sqrt(max(p * (1 - p), 1 / DRAWS) / DRAWS)
        assert abs(counts[architecture] / DRAWS - p) < 5 * sigma


def test_list_models_follows_iterate_samples(found):
    models = list(found.strategy.list_models(limit=3))
    assert [m.sample for m in models] == [r.sample for r in found.ranked[:3]]


def test_exported_instances_run(found):
    models = list(found.strategy.list_models(limit=2))
    if not found.case.freezes:
        with pytest.raises(NotImplementedError, match="freeze"):  # NNI's supernet cells cannot
            models[0].executable_model()
        return
    for model in models:
        assert model.executable_model().eval()(torch.randn(2, *found.case.shape)).shape == (2, 3)


def make_certain(strategy: BaLeNAS, architecture: dict[str, Any]) -> None:
    """Give the supernet one-hot weights: those of `sample`."""
    choices = strategy.posterior.choices
    with torch.no_grad():
        for label, alpha in strategy.oneshot_module.named_arch_parameters().items():
            alpha.fill_(-1e4)
            chosen = architecture.get(label, choices[label][0])
            for value in chosen if isinstance(chosen, list) else [chosen]:
                alpha[choices[label].index(str(value))] = 1e4


@torch.no_grad()
def test_frozen_network_equals_the_supernet_with_certain_choices(found):
    if not found.case.freezes:
        pytest.skip("NNI cannot freeze supernet cells")
    strategy = found.strategy
    means = strategy.posterior.mean
    supernet, x = strategy.supernet.eval(), torch.randn(4, *found.case.shape)
    for ranked in found.ranked:
        frozen = strategy.model_space.freeze(ranked.sample).executable_model().eval()
        make_certain(strategy, ranked.sample)
        same = torch.allclose(frozen(x), supernet(x), atol=1e-5, rtol=1e-4)
        assert same == found.case.faithful(ranked.sample), ranked.sample
    for label, alpha in strategy.oneshot_module.named_arch_parameters().items():
        alpha.copy_(means[label])


@torch.no_grad()
def test_frozen_choice_of_two_inputs_is_twice_the_supernets_average(tmp_path):
    case = CASES["input_choice_two_sum"]
    strategy = search(case.space(), classification(tmp_path))
    x = torch.randn(4, *case.shape)
    for ranked in strategy.iterate_samples():
        frozen = strategy.model_space.freeze(ranked.sample).executable_model().eval()
        make_certain(strategy, ranked.sample)
        torch.testing.assert_close(frozen(x), 2 * strategy.supernet.eval()(x), atol=1e-5, rtol=1e-4)

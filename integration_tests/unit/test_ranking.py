"""Selection from a posterior: candidates, ranking, stability, and the quick SynFlow of NAS-Bench-201."""

from __future__ import annotations

import json
import math
import signal
import statistics
from collections import Counter
from dataclasses import replace
from itertools import count, islice

import pytest
import torch

from balenas_plugin.bayes import Posterior, SeededNoise
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.costs import CostTable, timing
from balenas_plugin.distributions import get_distribution, list_distributions
from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.proxies import rank_value, score
from balenas_plugin.search_spaces.nasbench201 import NasBench201Space, SharedWeights, build_network, from_nni, parse
from balenas_plugin.search_spaces.nasbench201.synflow import log_synflow
from balenas_plugin.selection import ProxySelection, rank
from balenas_plugin.signals import stopped_by_signals

SPACE = NasBench201Space(channels=4, cells_per_stage=1, image_size=16)


def example(spread=0.5, precision=4.0):
    generator = torch.Generator().manual_seed(1)
    labels = [label for decision in SPACE.decisions for label in decision.labels]
    mean = {label: spread * torch.randn(5, generator=generator) for label in labels}
    return Posterior(mean, {label: torch.full((5,), precision) for label in labels})


def test_draws_are_discretised_deduplicated_and_counted():
    posterior = example()
    ranked = rank(posterior, SPACE, ProxySelection(n=40, seed=3))
    architectures, noise = Architectures(SPACE.decisions, posterior), SeededNoise(3)
    by_hand = Counter()
    for _ in range(40):
        draw = posterior.sample(noise)
        values = SPACE.decisions[0].values
        by_hand[tuple(values[int(draw[label].argmax())] for label in posterior.labels)] += 1
    found = {tuple(r.choices[label] for label in posterior.labels): r.times_drawn for r in ranked}
    assert found == dict(by_hand)
    assert sum(found.values()) == 40
    for r in ranked:
        assert r.log_probability == pytest.approx(architectures.describe(r.choices).log_probability)
        assert r.probability == pytest.approx(math.prod(r.winning_probability.values()), rel=1e-9)


@pytest.mark.parametrize("name", list_distributions())
def test_candidates_of_every_distribution_are_ranked(name):
    generator = torch.Generator().manual_seed(1)
    parameters = {label: torch.randn(5, generator=generator) for label in example().labels}
    posterior = get_distribution(name)(parameters).posterior()
    drawn = rank(posterior, SPACE, ProxySelection(n=5, proxy="params"))
    assert sum(r.times_drawn for r in drawn) == 5
    enumerated = rank(posterior, SPACE, ProxySelection(n=5, proxy="params", candidates="enumerate"))
    assert len(enumerated) == 5
    for r in (*drawn, *enumerated):
        assert r.log_probability == pytest.approx(sum(math.log(p) for p in r.winning_probability.values()), rel=1e-9)
    assert max(r.log_probability for r in enumerated) >= max(r.log_probability for r in drawn)


def test_enumerated_candidates_are_the_most_probable():
    posterior = example()
    ranked = rank(posterior, SPACE, ProxySelection(n=25, candidates="enumerate"))
    expected = sorted(found.log_probability for found in posterior.most_probable(25))
    assert sorted(r.log_probability for r in ranked) == pytest.approx(expected)
    assert all(r.times_drawn == 0 for r in ranked)


def test_order_is_that_of_the_proxy_on_freshly_built_networks():
    ranked = rank(example(), SPACE, ProxySelection(n=15, seed=5))
    values = []
    for r in ranked:
        network = SPACE.networks(5).build(r.choices)
        values.append(rank_value("synflow", network, torch.ones(1, 3, 16, 16)))
        assert r.scores["synflow"] == pytest.approx(values[-1], abs=1e-5)
    assert [r.rank for r in ranked] == list(range(1, len(ranked) + 1))
    assert values == sorted(values, reverse=True)


def test_same_seed_same_list_whatever_the_number_of_workers():
    selection = ProxySelection(n=20, proxy=("synflow", "naswot"), seeds=2, include_probability=True)
    inputs = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(11)
    one = rank(example(), SPACE, selection, inputs=inputs)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    two = rank(example(), SPACE, ProxySelection(**{**vars(selection), "workers": 2}), inputs=inputs)
    assert [r.to_dict() for r in one] == [r.to_dict() for r in two]
    assert torch.equal(torch.get_rng_state(), state)


class SignalsSpace(NasBench201Space):
    """A space whose architectures score 1 where SIGTERM ends the process that scores them, and Ctrl-C does nothing."""

    def networks(self, seed):
        return self

    def fast_rank_value(self, proxy, architecture):
        return float(
            signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        )


@pytest.mark.parametrize(("workers", "expected"), [(1, 0.0), (2, 1.0)])
def test_workers_do_not_inherit_what_a_command_does_on_signals(workers, expected):
    """Its handler raises, which Python may ignore where the signal comes at a bad moment; then the pool would hang."""
    with stopped_by_signals():
        ranked = rank(example(), SignalsSpace(), ProxySelection(n=20, workers=workers))
    assert {r.scores["synflow"] for r in ranked} == {expected}


def test_several_criteria_average_their_ranks():
    inputs = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    selection = ProxySelection(n=12, proxy=("synflow", "params"), include_probability=True, candidates="enumerate")
    ranked = rank(example(), SPACE, selection, inputs=inputs)

    def places(values):
        return [sum(other > value for other in values) for value in values]

    columns = [
        places([r.scores["synflow"] for r in ranked]),
        places([r.scores["params"] for r in ranked]),
        places([r.log_probability for r in ranked]),
    ]
    points = [sum(column) for column in zip(*columns, strict=True)]
    assert points == sorted(points)
    assert len(set(points)) > 1


def test_stability_is_certain_for_one_enumerated_seed_and_a_share_for_draws():
    sure = rank(example(), SPACE, ProxySelection(n=10, candidates="enumerate"))
    assert [r.stability for r in sure] == [1.0] + [0.0] * 9
    drawn = rank(example(), SPACE, ProxySelection(n=30))
    assert sum(r.stability for r in drawn) == pytest.approx(1.0, abs=1e-5)
    # the winner wins unless a bootstrap of the 30 draws misses it
    missed = (1 - drawn[0].times_drawn / 30) ** 30
    assert drawn[0].stability == pytest.approx(1 - missed, abs=0.06)


def params_of(architecture):
    return score("params", SPACE.build(architecture), torch.ones(1, 3, 16, 16))


def test_draws_go_on_until_enough_keep_to_the_limit():
    posterior, noise, by_hand = example(), SeededNoise(0), Counter()
    architectures = Architectures(SPACE.decisions, posterior)
    limit = statistics.median(params_of(r.choices) for r in rank(posterior, SPACE, ProxySelection(n=12)))
    while by_hand.total() < 12:
        found = architectures.discretise(posterior.sample(noise))
        by_hand[json.dumps(found)] += params_of(found) <= limit
    kept = rank(posterior, SPACE, ProxySelection(n=12, max_params=limit))
    assert {json.dumps(r.choices): r.times_drawn for r in kept} == dict(+by_hand)
    assert all(r.params == params_of(r.choices) <= limit for r in kept)
    listed = rank(posterior, SPACE, ProxySelection(n=12, max_params=limit, candidates="enumerate"))
    expected = (found.sample for found in architectures.iterate() if params_of(found.sample) <= limit)
    assert sorted(json.dumps(r.choices) for r in listed) == sorted(map(json.dumps, islice(expected, 12)))


def test_where_nothing_keeps_to_a_limit_the_smallest_there_is_is_named():
    smallest = params_of(dict.fromkeys(example().labels, "none"))
    with pytest.raises(
        SpaceError, match=rf"none of the 100 .*max_params=1: .* has {smallest:,.0f} parameters; raise the"
    ):
        rank(example(), SPACE, ProxySelection(n=5, max_params=1))
    sure = example(spread=0.0, precision=1e12)  # which draws the first choices alone, and knows of no zeros
    sure.scores["cell/0_1"][4] = 1.0
    with pytest.raises(SpaceError, match=rf"the smallest there is has {smallest:,.0f} parameters; it is improbable"):
        rank(sure, SPACE, ProxySelection(n=2, max_params=smallest))


def test_costs_of_a_table_take_the_place_of_measurements(monkeypatch):
    posterior = example()
    names = SPACE.decisions[0].values
    by_choice = {name: 10.0 * k for k, name in enumerate(names)}
    own = {"measure": "latency", "unit": "ms", "space": "", "parameters": 1}
    table = CostTable(costs=dict.fromkeys(posterior.labels, by_choice), fixed=5.0, **own)
    selection = ProxySelection(n=20, max_latency=105.0)
    kept = rank(posterior, SPACE, selection, tables={"latency": table})
    assert [r.latency for r in kept] == [5.0 + sum(by_choice[name] for name in r.choices.values()) for r in kept]
    assert max(r.latency for r in kept) <= 105.0
    with pytest.raises(SpaceError, match=r"max_latency=1: the smallest there is has 5 ms"):
        rank(posterior, SPACE, replace(selection, max_latency=1.0), tables={"latency": table})
    ticks = count()
    monkeypatch.setattr(timing, "_now", lambda device: 1e-3 * next(ticks))
    assert [r.latency for r in rank(posterior, SPACE, replace(selection, n=1))] == [pytest.approx(1.0)]


def test_networks_that_ignore_their_input_come_last():
    labels = [label for decision in SPACE.decisions for label in decision.labels]
    mean = {label: torch.tensor([2.0, 1.9, -50.0, 1.8, -50.0]) for label in labels}
    posterior = Posterior(mean, {label: torch.full((5,), 1.0) for label in labels})
    inputs, targets = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    for proxy in ("synflow", "grasp"):
        ranked = rank(posterior, SPACE, ProxySelection(n=30, proxy=proxy), inputs=inputs, targets=targets)
        dead = [r.scores[proxy] == -math.inf for r in ranked]
        assert any(dead)
        assert dead == sorted(dead)
        assert ranked[-1].to_dict()["scores"][proxy] is None  # JSON knows no infinity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxy": "sinflow"}, "did you mean 'synflow'"),
        ({"n": 0}, "n must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 2**32}, "seed must be at most 4294967295"),
        ({"candidates": "sampled"}, "did you mean 'sample'"),
        ({"max_params": -1}, "max_params must be a positive number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        ProxySelection(**options)


def test_posterior_of_another_space():
    other = Posterior({"layer": torch.zeros(3)}, {"layer": torch.ones(3)})
    with pytest.raises(SpaceError, match="posterior is of another space"):
        rank(other, SPACE)


def test_labels_are_asked_for():
    with pytest.raises(OptionError, match="needs labels"):
        rank(example(), SPACE, ProxySelection(n=2, proxy="snip"))


@pytest.mark.parametrize("cells", [1, 5])
def test_quick_synflow_equals_the_proxy(cells):
    generator = torch.Generator().manual_seed(cells)
    cases = [torch.randint(5, (6,), generator=generator).tolist() for _ in range(6)]
    cases += [[0] * 6, [1] * 6, [3] * 6, [0, 0, 0, 4, 0, 0], [3, 2, 4, 0, 0, 0]]
    for case in cases:
        network = build_network(case, channels=4, cells_per_stage=cells)
        expected = rank_value("synflow", network, torch.ones(1, 3, 16, 16))
        found = log_synflow(network, image_size=16)
        assert found == pytest.approx(expected, abs=1e-5), case


def test_architectures_share_the_weights_of_the_layers_they_have_in_common():
    weights = SharedWeights(3, channels=4, cells_per_stage=1)
    one, other = weights.network((3, 2, 1, 3, 0, 2)), weights.network((3, 3, 1, 0, 4, 2))
    own, same = one.state_dict(), other.state_dict()
    for key in own.keys() & same.keys():
        if own[key].shape == same[key].shape:
            assert torch.equal(own[key], same[key]), key
            assert own[key].data_ptr() != same[key].data_ptr()
    assert any("operations" in key for key in own.keys() & same.keys())
    assert list(own) == list(build_network((3, 2, 1, 3, 0, 2), channels=4, cells_per_stage=1).state_dict())
    assert not torch.equal(own["stem.0.weight"], SharedWeights(4, channels=4).network((3,) * 6).stem[0].weight)


def test_shared_weights_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    SharedWeights(3, channels=4, cells_per_stage=1).network((3,) * 6)
    assert torch.equal(torch.get_rng_state(), state)


def test_shared_networks_train():
    network = SharedWeights(3, channels=4, cells_per_stage=1).network((3, 2, 1, 3, 4, 2))
    network(torch.randn(4, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_quick_synflow_of_shared_weights():
    weights = SharedWeights(3, channels=4, cells_per_stage=2)
    generator = torch.Generator().manual_seed(0)
    cases = [torch.randint(5, (6,), generator=generator).tolist() for _ in range(10)]
    for case in [*cases, [0] * 6, [3, 0, 0, 3, 0, 0], [0, 3, 0, 3, 0, 0], [0, 0, 3, 3, 0, 0]]:
        found = weights.log_synflow(case, image_size=16)
        assert found == pytest.approx(log_synflow(weights.network(case), image_size=16), abs=1e-6)
        assert found == pytest.approx(rank_value("synflow", weights.network(case), torch.ones(1, 3, 16, 16)), abs=1e-5)


def test_edges_that_lead_nowhere_change_nothing():
    weights = SharedWeights(3, channels=4, cells_per_stage=1)
    dead_ends = {weights.log_synflow((operation, 0, 0, 3, 0, 0)) for operation in range(5)}
    assert len(dead_ends) == 1
    assert len({weights.log_synflow((operation, 0, 0, 3, 3, 0)) for operation in range(5)}) == 5


def test_quick_synflow_of_reference_networks(parity_dir):
    reference = json.loads((parity_dir / "proxies.json").read_text())["archs"]
    weights = torch.load(parity_dir / "proxies_weights.pt", weights_only=True)
    for name, case in reference.items():
        network = build_network(case["arch"])
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), weights[name].values(), strict=True):
                parameter.copy_(value)
        expected = case["float64"]["synflow"]
        assert log_synflow(network) == (pytest.approx(math.log(expected), abs=1e-5) if expected else -math.inf)


def test_space_translates_samples():
    architecture = {label: "conv_3x3" for decision in SPACE.decisions for label in decision.labels}
    assert parse(SPACE.notations(architecture)["nasbench201"]) == from_nni(architecture) == (3,) * 6

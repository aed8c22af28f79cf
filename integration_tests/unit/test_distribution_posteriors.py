"""What every distribution says of its choices: probabilities, files, diagnostics, nodes of cells."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from balenas_plugin.bayes import Posterior, SeededNoise
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.decisions import CellNode, TopSet
from balenas_plugin.diagnostics import SearchState, past_posterior, summarise
from balenas_plugin.diagnostics.log_file import write_log
from balenas_plugin.distributions import Draw, get_distribution

from .distribution_members import COSTS, MEMBERS, USERS, Noisy, every_member, every_member_and_users, linear, make

DRAWS = 100_000


def many(posterior, labels, *, draws=DRAWS):
    """Return label -> scores of many draws, shape (draws, K)."""
    generator = torch.Generator().manual_seed(3)
    laws = {label: posterior.laws[label] for label in labels}
    return {k: law.at_noise(torch.randn(draws, len(law), generator=generator).double()) for k, law in laws.items()}


def within_sampling_error(outcomes, counts, draws):
    """Check shares of draws against log-probabilities, and that these are those of everything there is."""
    assert sum(math.exp(value) for value in outcomes.values()) == pytest.approx(1, abs=1e-9)
    for outcome, value in outcomes.items():
        p = math.exp(value)
        assert abs(counts.get(outcome, 0) / draws - p) < 5 * math.sqrt(max(p * (1 - p), 1e-6) / draws), outcome


def counted(rows):
    found, times = torch.unique(rows, dim=0, return_counts=True)
    return dict(zip(map(tuple, found.tolist()), times.tolist(), strict=True))


@every_member_and_users
def test_what_wins_a_posterior_s_draws_is_as_probable_as_it_says(name):
    distribution = make(name)
    posterior = distribution.posterior()
    for label, drawn in many(posterior, "ab").items():
        log_win = posterior.log_win_probability()[label]
        assert torch.equal(log_win, distribution.log_probabilities()[label])
        within_sampling_error(
            {(k,): v for k, v in enumerate(log_win.tolist())}, counted(drawn.argmax(-1)[:, None]), DRAWS
        )
        pairs = dict(TopSet(label, 2).outcomes(posterior).best_first())
        within_sampling_error(pairs, counted(drawn.topk(2).indices.sort(-1).values), DRAWS)


@every_member
def test_nodes_of_cells_are_as_probable_as_draws_show(name):
    """Also where weights are normalised label by label, so that strong edges are no matter of independent scores."""
    torch.manual_seed(0)
    labels = ("c/2_0", "c/2_1", "c/2_2")
    posterior = get_distribution(name)({label: torch.randn(3) for label in labels}, **MEMBERS[name]).posterior()
    for kept in (2, 3):
        node = CellNode(
            "c", 2, labels, kept, (("x", "y"),) * len(labels)
        )  # the last of the three scores is never taken
        draws = 20_000
        best = [drawn[:, :2].max(-1) for drawn in many(posterior, labels, draws=draws).values()]
        edges = torch.stack([b.values for b in best], 1).topk(kept).indices.sort(-1).values
        operations = torch.stack([b.indices for b in best], 1).gather(1, edges)
        counts = counted(torch.stack([edges, operations], -1).flatten(1))
        outcomes = dict(node.outcomes(posterior).best_first())
        assert list(outcomes.values()) == sorted(outcomes.values(), reverse=True)
        flat = {tuple(itertools.chain(*outcome)): value for outcome, value in outcomes.items()}
        within_sampling_error(flat, counts, draws)


@every_member
def test_what_is_left_is_taken_where_less_is_left_than_wanted(name):
    distribution = make(name)
    distribution.keep("b", [2])
    inputs, node = TopSet("b", 2), CellNode("b", 1, ("b",), 2, (("w", "x", "y", "z"),))
    for decision, outcome in ((inputs, (2,)), (node, ((0, 2), (0, 2)))):
        assert decision.choose(distribution.scores()) == outcome
        assert dict(decision.outcomes(distribution.posterior()).best_first()) == {outcome: pytest.approx(0)}


@every_member_and_users
def test_a_posterior_enumerates_draws_and_describes_architectures(name):
    posterior = make(name).posterior({"a": "xyz", "b": "wxyz"})
    found = posterior.most_probable(100)
    assert len({tuple(architecture.items()) for architecture in found}) == 12
    assert sum(math.exp(architecture.log_probability) for architecture in found) == pytest.approx(1, abs=1e-9)
    for architecture in found[:3]:
        assert posterior.log_probability(architecture) == pytest.approx(architecture.log_probability)
    architectures = Architectures(posterior.decisions, posterior)
    assert architectures.discretise(posterior.sample(SeededNoise(0))) in found
    argmax = architectures.discretise(posterior.scores)
    assert argmax == {k: posterior.choices[k][int(s.argmax())] for k, s in make(name).scores().items()}
    assert posterior.metrics()["entropy"] == pytest.approx(make(name).entropy())
    assert name in repr(posterior) or name == "gaussian"


@every_member_and_users
@pytest.mark.parametrize("dropped", [False, True])
def test_a_posterior_s_file_holds_it_exactly(name, dropped, tmp_path):
    distribution = make(name, dtype=torch.float32)
    if dropped:
        distribution.keep("b", [1, 2])
    posterior = distribution.posterior({"a": "xyz", "b": "wxyz"})
    posterior.save(tmp_path / "posterior.json")
    json.loads((tmp_path / "posterior.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert_equal(Posterior.load(tmp_path / "posterior.json"), posterior)
    assert Posterior.load(tmp_path / "posterior.json").kind == name


@every_member_and_users
def test_the_diagnostics_hold_the_posterior_of_each_epoch(name, tmp_path):
    distribution = make(name, dtype=torch.float32)
    posterior = distribution.posterior()
    state = SearchState(posterior=posterior, decisions=posterior.decisions, choices=posterior.choices)
    record = {"epoch": 0, **summarise(state, draws=10, seed=0)}
    assert ("sigma" in record) == (name == "gaussian")
    assert record["draws"]["count"] == 10
    write_log(tmp_path / "d.jsonl", {}, [json.loads(json.dumps(record))])
    distribution.update(linear({label: cost.float() for label, cost in COSTS.items()}))
    assert_equal(past_posterior(tmp_path / "d.jsonl", 0, like=distribution.posterior()), posterior)


def assert_equal(one: Posterior, other: Posterior):
    assert one.choices == other.choices
    for label, law in other.laws.items():
        assert torch.equal(one.scores[label], other.scores[label])
        for name, values in law.parameters().items():
            assert one.laws[label].parameters()[name].dtype == values.dtype
            torch.testing.assert_close(one.laws[label].parameters()[name], values, rtol=1e-8, atol=0)
    assert one.most_probable(3)[0] == other.most_probable(3)[0]


def test_what_is_logged_every_few_steps_asks_for_few_draws():
    distribution, asked = make("noisy-vectors"), []
    draw = distribution.draw
    distribution.draw = lambda parameters: asked.append(parameters) or draw(parameters)
    entropy = distribution.metrics()["entropy"]
    assert len(asked) == 65  # one that would have made many at once
    assert entropy == pytest.approx(distribution.entropy(), abs=0.2)
    assert len(asked) == 65 + 1_025


def test_choices_of_a_draw_that_nobody_knows_more_of_are_counted():
    """Without a trace in the search: of Gaussian logits with sigma 1, whose probabilities are known otherwise."""
    for name in USERS:
        distribution, undisturbed = make(name), make(name)
        before = torch.get_rng_state()
        counted = distribution.posterior()
        assert torch.equal(torch.get_rng_state(), before)
        exact = Posterior(distribution.parameters, {k: torch.ones_like(p) for k, p in distribution.parameters.items()})
        for label, log_p in exact.log_win_probability().items():
            p, draws = log_p.exp(), 1_024 if name == "noisy-vectors" else 16_384
            error = (counted.log_win_probability()[label].exp() - p).abs()
            assert (error < 5 * (p * (1 - p) / draws).sqrt()).all()
            assert torch.equal(distribution.sample().weights[label], undisturbed.sample().weights[label])


def test_a_draw_of_single_noise_is_not_counted_as_many():
    class Single(Noisy):
        def draw(self, parameters):
            noise = {label: self.noise(own) for label, own in self.parameters.items()}
            return Draw(parameters, {label: (a + noise[label]).softmax(-1) for label, a in parameters.items()})

    decided = make("noisy")
    decided.keep("b", [1])
    decided.sample = None  # one after the other would fail
    assert decided.counted_probabilities()["b"].tolist() == [0, 1, 0, 0]
    counted = Single({"a": torch.zeros(3)}).counted_probabilities()["a"]
    assert counted.tolist() == pytest.approx([1 / 3] * 3, abs=0.1)

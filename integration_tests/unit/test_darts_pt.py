"""DARTS-PT on supernets whose accuracy is a known function of the mixing weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from balenas_plugin.bayes import Posterior
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.decisions import CellNode, Decision, OneOf, SoftmaxNode, TopSet
from balenas_plugin.selection.darts_pt import perturbation_pick
from balenas_plugin.selection.supernet_accuracy import SupernetAccuracy

IMAGES = 3000


class Additive(nn.Module):
    """Gets as many images right as the worth of what has weight adds up to; weights can be trained."""

    def __init__(self, worth: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.worth = worth
        self.weights: Mapping[str, Tensor] = {}
        self.trained = nn.Parameter(torch.zeros(2))
        self.asked: list[dict[str, list[int]]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.asked.append({label: w.nonzero().flatten().tolist() for label, w in self.weights.items()})
        right = int(sum(float(self.worth[label][w > 0].sum()) for label, w in self.weights.items()))
        scores = torch.zeros(len(images), 2)
        scores[:right, 0], scores[right:, 1] = 1, 1
        return scores + self.trained


class Known:
    """A supernet of it (`Supernet`, and a `Mixture` too)."""

    def __init__(self, worth: Mapping[str, Tensor], means: Mapping[str, Tensor]) -> None:
        self.network, self.means = Additive(worth), dict(means)
        self.counts: list[tuple[int, int]] = []

    def mixture(self) -> Known:
        return self

    def mean_weights(self) -> dict[str, Tensor]:
        return self.means

    @contextmanager
    def mixing(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        self.network.weights = weights
        yield

    def weight_batches(self, count: int, *, seed: int) -> list[tuple[Tensor, Tensor]]:
        self.counts.append((count, seed))
        return [(torch.zeros(4, 1), torch.ones(4, dtype=torch.int64))] * count

    def architecture_batches(self, images: int, *, seed: int) -> list[tuple[Tensor, Tensor]]:
        return [(torch.zeros(IMAGES, 1), torch.zeros(IMAGES, dtype=torch.int64))]


def pick(worth: Mapping[str, Tensor], decisions: list[Decision], *, scores: Tensor | None = None, **options):
    mean = {label: torch.zeros(len(values)) if scores is None else scores for label, values in worth.items()}
    supernet = Known(worth, {label: mu.softmax(-1) for label, mu in mean.items()})
    accuracy = SupernetAccuracy(supernet, images=IMAGES, batch_norm_batches=1, seed=0, batch_statistics=True)
    posterior = Posterior(mean, {label: torch.ones_like(mu) for label, mu in mean.items()})
    options = {"seed": 0, **options}
    return perturbation_pick(Architectures(decisions, posterior), accuracy, **options), supernet


def test_each_choice_keeps_what_costs_most_and_the_later_ones_see_it() -> None:
    worth = {"a": torch.tensor([10.0, 90, 20]), "b": torch.tensor([40.0, 5]), "c": torch.tensor([1.0, 2, 3, 4])}
    decisions: list[Decision] = [OneOf("a", ("x", "y", "z")), OneOf("b", ("x", "y")), TopSet("c", 2)]
    found, supernet = pick(worth, decisions)
    assert found == {"a": "y", "b": "x", "c": [2, 3]}
    asked = supernet.network.asked
    assert len(asked) == 3 + 2 + 4  # one for each candidate
    decided = {"a": [1], "b": [0], "c": [2, 3]}
    first = [{label: len(kept) for label, kept in asked[k].items()} for k in range(len(asked))]
    for label, kept in decided.items():
        turns = [
            k for k, entry in enumerate(first) if entry[label] == len(worth[label]) - 1 and asked[k][label] != kept
        ]
        assert all(asked[k][label] == kept for k in range(max(turns) + 1, len(asked)))
    orders = {tuple(tuple(entry["a"]) for entry in pick(worth, decisions, seed=s)[1].network.asked) for s in range(6)}
    assert len(orders) > 1  # of the choices


def test_ties_are_broken_by_the_mixing_weights() -> None:
    found, _ = pick({"a": torch.zeros(3)}, [OneOf("a", ("x", "y", "z"))], scores=torch.tensor([0.0, 2.0, 1.0]))
    assert found == {"a": "y"}


@pytest.mark.parametrize(("kind", "names"), [(CellNode, ("x", "y")), (SoftmaxNode, ("x", "y", "none"))])
def test_a_node_drops_the_cheapest_inputs_one_after_the_other(kind: type[CellNode], names: tuple[str, ...]) -> None:
    labels = ("c/3_0", "c/3_1", "c/3_2")
    values = {"c/3_0": [5.0, 50, 900], "c/3_1": [30.0, 20, 900], "c/3_2": [1.0, 99, 900]}
    node = kind("c", 3, labels, 2, (names,) * 3, log_edge_weights=(0.0, 20.0, 0.0))  # which do not count here
    found, supernet = pick({k: torch.tensor(v) for k, v in values.items()}, [node])
    assert found["c/op_3_0"] == found["c/op_3_1"] == "y"
    assert sorted([found["c/input_3_0"], found["c/input_3_1"]]) == [[0], [2]]
    assert len(supernet.network.asked) == 3 * 2 + 3  # the third entry is no candidate


def test_fine_tuning_trains_a_few_batches_after_each_decision() -> None:
    state = torch.get_rng_state()
    worth = {"a": torch.tensor([1.0, 2]), "b": torch.tensor([1.0, 2])}
    decisions: list[Decision] = [OneOf("a", ("x", "y")), OneOf("b", ("x", "y"))]
    found, supernet = pick(worth, decisions, fine_tuning=3, seed=7)
    assert supernet.counts == [(3, 7), (3, 8)]
    assert len(supernet.network.asked) == 4 + 6
    assert supernet.network.trained[1] > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert found == {"a": "y", "b": "y"}

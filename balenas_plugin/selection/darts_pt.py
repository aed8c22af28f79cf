"""DARTS-PT: decide a trained supernet's choices one by one, by the accuracy that the removal of a candidate costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from balenas_plugin.bayes.architectures import Architectures, single_decisions
from balenas_plugin.bayes.decisions import NO_CONNECTION, Architecture, CellNode, SoftmaxNode, TopSet
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.selection.supernet_accuracy import Batch, SupernetAccuracy

_LR, _MOMENTUM, _WEIGHT_DECAY, _CLIP = 2.5e-3, 0.9, 3e-4, 5.0
"""Of the training between decisions, as the reference's."""

_STRONG = 100.0
"""Score of the operation of an edge that stays: its softmax is 1."""


def perturbation_pick(
    architectures: Architectures, accuracy: SupernetAccuracy, *, seed: int, fine_tuning: int = 0, progress: bool = False
) -> Architecture:
    """Return the architecture that perturbations of the supernet choose.

    The choices are gone through in a random order: each of its candidates is taken away in turn, the others keeping
    their mixing weights, and the one without which the supernet's accuracy is lowest stays alone. Where a cell's node
    keeps fewer inputs than it has, the nodes follow: the input that costs least goes, until enough have gone.

    Args:
        architectures: of the space, under the posterior that the supernet's mean mixing weights come from.
        accuracy: of the supernet.
        seed: of the order.
        fine_tuning: batches of the weight half that a copy of the supernet is trained on after each decision.
        progress: show a progress bar.

    Source: Wang et al. 2021, "Rethinking Architecture Selection in Differentiable NAS".
    """
    perturbation = _Perturbation(architectures, accuracy, fine_tuning, seed)
    with random_numbers_restored(seed):
        order = [*perturbation.shuffled(perturbation.labels), *perturbation.shuffled(perturbation.nodes)]
        for choice in tqdm(order, desc="darts-pt", disable=not progress):
            perturbation.decide(choice)
            perturbation.fine_tune()
    decisions = [
        replace(d, log_edge_weights=()) if isinstance(d, CellNode) else d for d in architectures.decisions
    ]  # what edges are worth has been found out
    return Architectures(decisions, architectures.posterior).discretise(perturbation.scores)


class _Perturbation:
    """The mixture of a supernet, whose choices are decided one after the other."""

    def __init__(self, architectures: Architectures, accuracy: SupernetAccuracy, fine_tuning: int, seed: int) -> None:
        decisions = list(single_decisions(architectures.decisions))
        posterior = architectures.posterior
        self._accuracy, self._fine_tuning, self._seed = accuracy, fine_tuning, seed
        self._mixture = accuracy.mixture()
        self.labels = sorted({label for decision in decisions for label in decision.labels})
        self.nodes = [d for d in decisions if isinstance(d, CellNode) and d.num_ops < len(d.labels)]
        self._stay = {d.label: d.n_chosen for d in decisions if isinstance(d, TopSet)}
        self._candidates = {label: posterior.laws[label].kept.nonzero().flatten().tolist() for label in self.labels}
        for node in (d for d in decisions if isinstance(d, CellNode)):
            for label, names in zip(node.labels, node.op_names, strict=True):
                never = {NO_CONNECTION} if isinstance(node, SoftmaxNode) else set()  # and NNI's "edge not chosen"
                allowed = [k for k, name in enumerate(names) if name not in never]
                self._candidates[label] = [k for k in self._candidates[label] if k in allowed]
                self._stay[label] = max(1, node.num_ops - len(node.labels) + 1)
        means = self._mixture.mean_weights()
        self._weights = {k: torch.where(posterior.laws[k].kept, means[k].cpu(), 0) for k in self.labels}
        self.scores = {label: torch.zeros_like(posterior.scores[label]) for label in self.labels}
        """Label -> what discretisation ranks the candidates by, the larger the more their removal costs."""
        self._optimizer = torch.optim.SGD(
            [p for p in self._mixture.network.parameters() if p.requires_grad],
            lr=_LR,
            momentum=_MOMENTUM,
            weight_decay=_WEIGHT_DECAY,
        )
        self._batches = self._endless()

    def shuffled(self, choices: Sequence[str | CellNode]) -> list[str | CellNode]:
        """Return the choices in a random order."""
        return [choices[k] for k in torch.randperm(len(choices)).tolist()]

    def decide(self, choice: str | CellNode) -> None:
        """Decide the operation of a label, or the inputs of a node."""
        if isinstance(choice, str):
            self._decide_operation(choice)
        else:
            self._decide_inputs(choice)

    def _decide_operation(self, label: str) -> None:
        weights, candidates = self._weights[label], self._candidates[label]
        without = {k: self._without(label, k) for k in candidates}
        ranked = sorted(candidates, key=lambda k: (without[k], -float(weights[k]), k))
        for place, k in enumerate(ranked):
            self.scores[label][k] = 1 - place / len(ranked)
        staying = torch.zeros_like(weights)
        staying[ranked[: self._stay.get(label, 1)]] = 1
        self._weights[label] = staying / staying.sum()

    def _decide_inputs(self, node: CellNode) -> None:
        labels = list(node.labels)
        while len(labels) > node.num_ops:
            cheapest = max(labels, key=self._without)
            self._weights[cheapest] = torch.zeros_like(self._weights[cheapest])
            labels.remove(cheapest)
        for label in labels:
            self.scores[label][self.scores[label].argmax()] = _STRONG

    def _without(self, label: str, candidate: int | None = None) -> float:
        """Return the accuracy without a candidate of a label, or without all of them."""
        weights = self._weights[label].clone()
        weights[slice(None) if candidate is None else candidate] = 0
        with self._mixture.mixing({**self._weights, label: weights}):
            return self._accuracy.of(self._mixture.network)

    def fine_tune(self) -> None:
        """Train the network on a few batches at the mixture as it is now."""
        network = self._mixture.network
        for _ in range(self._fine_tuning):
            images, labels = next(self._batches)
            network.train()
            with self._mixture.mixing(self._weights):
                loss = F.cross_entropy(network(images), labels)
            self._optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
            self._optimizer.step()

    def _endless(self) -> Iterator[Batch]:
        seed = self._seed
        while True:
            yield from self._accuracy.weight_batches(self._fine_tuning, seed=seed)
            seed += 1

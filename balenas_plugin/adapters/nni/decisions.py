"""From a posterior to NNI samples: which architectures are the most probable, exactly.

Every supernet module makes independent decisions: a LayerChoice takes its largest logit, an InputChoice its n largest,
a node of a Cell its n strongest edges with their best operations. Each decision lists its outcomes with their exact
log-probabilities, and the combinations are enumerated best-first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.differentiable import (
    DifferentiableMixedCell,
    DifferentiableMixedInput,
    DifferentiableMixedLayer,
)
from torch import Tensor, nn

from balenas_plugin.adapters.nni.supernet import architecture_parameters, labelled_alphas, supernet_modules
from balenas_plugin.bayes.order_statistics import (
    log_node_probability,
    log_top_set_probability,
    log_win_probability,
)
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.bayes.ranking import iterate_best_first
from balenas_plugin.bayes.vadam import SeededNoise

_MONTE_CARLO_DRAWS = 20_000

Outcome = Any
"""A hashable description of what was decided; every decision has its own kind."""


class Decision(Protocol):
    """One independent decision of the architecture."""

    labels: tuple[str, ...]

    def outcomes(self, posterior: Posterior) -> dict[Outcome, float]:
        """Return outcome -> log-probability in nats."""

    def to_sample(self, outcome: Outcome, posterior: Posterior) -> dict[str, Any]:
        """Return the part of NNI's sample that this outcome stands for."""

    def from_sample(self, sample: dict[str, Any]) -> Outcome:
        """Return the outcome that an NNI sample stands for."""


@dataclass(frozen=True)
class OneOf:
    """A LayerChoice, or a value choice of a native operation or a Repeat: the largest logit wins."""

    label: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The one label."""
        return (self.label,)

    def outcomes(self, posterior: Posterior) -> dict[Outcome, float]:
        """Return index of the value -> log-probability."""
        log_win = log_win_probability(posterior.mean[self.label], posterior.std[self.label])
        return dict(enumerate(log_win.tolist()))

    def to_sample(self, outcome: Outcome, posterior: Posterior) -> dict[str, Any]:
        """Return {label: value}."""
        return {self.label: self.values[outcome]}

    def from_sample(self, sample: dict[str, Any]) -> Outcome:
        """Return the index of the value."""
        return self.values.index(sample[self.label])


@dataclass(frozen=True)
class TopSet:
    """An InputChoice: the `n_chosen` largest logits win."""

    label: str
    n_chosen: int

    @property
    def labels(self) -> tuple[str, ...]:
        """The one label."""
        return (self.label,)

    def outcomes(self, posterior: Posterior) -> dict[Outcome, float]:
        """Return sorted tuple of inputs -> log-probability."""
        return dict(
            log_top_set_probability(posterior.mean[self.label], posterior.std[self.label], self.n_chosen).items()
        )

    def to_sample(self, outcome: Outcome, posterior: Posterior) -> dict[str, Any]:
        """Return {label: list of inputs}."""
        return {self.label: list(outcome)}

    def from_sample(self, sample: dict[str, Any]) -> Outcome:
        """Return the sorted tuple of inputs."""
        return tuple(sorted(sample[self.label]))


@dataclass(frozen=True)
class CellNode:
    """A node of a supernet cell: its strongest incoming edges, each with its best operation.

    Outcomes are tuples of (input, operation index) in input order: a node adds its inputs up, so which of them is the
    stronger makes no difference to the network.
    """

    cell: str
    node: int
    labels: tuple[str, ...]
    num_ops: int
    op_names: tuple[str, ...]

    def outcomes(self, posterior: Posterior) -> dict[Outcome, float]:
        """Return tuple of (input, operation index) -> log-probability."""
        means, stds = self._logits(posterior.mean), self._logits(posterior.std)
        return dict(log_node_probability(means, stds, self.num_ops).items())

    def to_sample(self, outcome: Outcome, posterior: Posterior) -> dict[str, Any]:
        """Return NNI's op_<node>_<k> and input_<node>_<k>, the strongest mean logit first, as NNI exports them."""
        means = self._logits(posterior.mean)
        ordered = sorted(outcome, key=lambda entry: -float(means[entry[0]][entry[1]]))
        sample: dict[str, Any] = {}
        for k, (j, operation) in enumerate(ordered):
            sample[f"{self.cell}/op_{self.node}_{k}"] = self.op_names[operation]
            sample[f"{self.cell}/input_{self.node}_{k}"] = [j]
        return sample

    def from_sample(self, sample: dict[str, Any]) -> Outcome:
        """Return the tuple of (input, operation index)."""
        prefix = f"{self.cell}/{{}}_{self.node}_{{}}"
        inputs = [sample[prefix.format("input", k)][0] for k in range(self.num_ops)]
        operations = [self.op_names.index(sample[prefix.format("op", k)]) for k in range(self.num_ops)]
        return tuple(sorted(zip(inputs, operations, strict=True)))

    def _logits(self, by_label: dict[str, Tensor]) -> list[Tensor]:
        # NNI's cells have one more logit, "edge not chosen", which its export (and so this) never takes
        return [by_label[label][: len(self.op_names)] for label in self.labels]


@dataclass(frozen=True)
class Exported:
    """A supernet module whose rule of choice only its own `export` knows: outcomes are counted over seeded draws.

    Used for users' own supernet modules, and for cells that keep more operations per node than it has inputs.
    """

    module: BaseSuperNetModule
    alphas: tuple[tuple[str, nn.Parameter], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the module's alphas."""
        return tuple(label for label, _ in self.alphas)

    @torch.no_grad()
    def outcomes(self, posterior: Posterior) -> dict[Outcome, float]:
        """Return frozen sample -> log of its share among the draws."""
        noise, counts = SeededNoise(0), Counter[Outcome]()
        before = [alpha.clone() for _, alpha in self.alphas]
        draws = _MONTE_CARLO_DRAWS if self.alphas else 1
        try:
            for _ in range(draws):
                for label, alpha in self.alphas:
                    alpha.copy_(posterior.mean[label] + noise(posterior.mean[label]) * posterior.std[label])
                counts[self.from_sample(self.module.export({}))] += 1
        finally:
            for (_, alpha), value in zip(self.alphas, before, strict=True):
                alpha.copy_(value)
        total = torch.tensor(float(draws)).log()
        return {outcome: float(torch.tensor(float(n)).log() - total) for outcome, n in counts.items()}

    def to_sample(self, outcome: Outcome, posterior: Posterior) -> dict[str, Any]:
        """Return the sample that was frozen."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in outcome}

    def from_sample(self, sample: dict[str, Any]) -> Outcome:
        """Return the module's part of the sample as a hashable."""
        keys = self.module.simplify() if not self.alphas else self.module.export({})
        return tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in sample.items() if k in keys))


def decisions_of(model: nn.Module) -> list[Decision]:
    """Return the independent decisions of a supernet; a label that several modules share is decided once."""
    found: dict[tuple[str, ...], Decision] = {}
    labels = {id(alpha): label for label, alpha in architecture_parameters(model).items()}
    for name, module in supernet_modules(model):
        own = labelled_alphas(module, name)
        unique = {local: labels[id(alpha)] for local, alpha in own.items()}
        for decision in _decisions_of_module(module, unique) or [_exported(module, own, unique)]:
            found.setdefault(decision.labels or (name,), decision)
    return list(found.values())


def _decisions_of_module(module: BaseSuperNetModule, unique: dict[str, str]) -> list[Decision]:
    """Return the decisions of a module whose rule is known; `unique` maps the module's labels to the model's."""
    if isinstance(module, DifferentiableMixedLayer):
        return [OneOf(label, tuple(module.names)) for label in unique.values()]
    if isinstance(module, DifferentiableMixedInput):
        return [TopSet(label, int(module.n_chosen or 1)) for label in unique.values()]
    if isinstance(module, DifferentiableMixedCell):
        nodes = range(module.num_predecessors, module.num_predecessors + module.num_nodes)
        if module.num_ops_per_node > nodes[0]:
            return []  # then NNI takes further operations of the same inputs
        return [
            CellNode(
                module.label,
                node,
                tuple(unique[f"{module.label}/{node}_{j}"] for j in range(node)),
                module.num_ops_per_node,
                tuple(module.op_names),
            )
            for node in nodes
        ]
    values = {label: getattr(space, "values", None) for label, space in module.simplify().items()}
    if unique and all(values.get(label) is not None for label in unique):
        return [OneOf(unique[label], tuple(values[label])) for label in unique]
    return []


def _exported(module: BaseSuperNetModule, own: dict[str, nn.Parameter], unique: dict[str, str]) -> Exported:
    return Exported(module, tuple((unique[local], alpha) for local, alpha in own.items()))


@dataclass(frozen=True)
class RankedSample:
    """One architecture: NNI's sample, its log-probability in nats, and that of each of its decisions."""

    sample: dict[str, Any]
    log_probability: float
    decisions: dict[str, float]


def ranked_samples(model: nn.Module, posterior: Posterior, first: dict[str, Any]) -> Iterator[RankedSample]:
    """Yield `first`, then every other architecture from the most to the least probable, without repetition.

    Args:
        model: the supernet.
        posterior: over its architecture parameters.
        first: the sample that leads the list (the argmax of the mean, which need not be the most probable one).
    """
    decisions = decisions_of(model)
    outcomes = [decision.outcomes(posterior) for decision in decisions]
    lead = tuple(decision.from_sample(first) for decision in decisions)

    def record(chosen: Sequence[Outcome], sample: dict[str, Any]) -> RankedSample:
        each = {
            "+".join(d.labels): table.get(outcome, float("-inf"))
            for d, table, outcome in zip(decisions, outcomes, chosen, strict=True)
        }
        return RankedSample(sample, sum(each.values()), each)

    yield record(lead, first)
    for ranked in iterate_best_first(dict(enumerate(outcomes))):
        chosen = tuple(ranked.outcomes.values())
        if chosen != lead:
            sample: dict[str, Any] = {}
            for decision, outcome in zip(decisions, chosen, strict=True):
                sample.update(decision.to_sample(outcome, posterior))
            yield record(chosen, sample)

r"""What every distribution over mixing weights is: parameters by label, draws, an update, and what it says.

A mixed operation adds up its candidates with **mixing weights**, one vector per label. A distribution gives the weights
of a pass: those of a draw, or the mean. Gradients are taken in the weights, and one vector-Jacobian product carries
them back to the distribution's own parameters, so bilevel gradients, perturbations and masks are written once for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import torch
from torch import Tensor

from balenas_plugin.bayes.decisions import Decision
from balenas_plugin.bayes.laws import GumbelLaw, Law
from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.distributions._draw import Draw, Evaluate
from balenas_plugin.errors import OptionError
from balenas_plugin.mixed_ops.edge_weights import EdgeWeights
from balenas_plugin.options import Betas, NonNegative, Positive, PositiveInt

_COUNTED, _LOGGED_ONE_BY_ONE = 16_384, 64


class Distribution(ABC):
    """A distribution over the mixing weights of every label.

    Args:
        parameters: label -> the tensor that holds its parameters, shape (K,); draws go through them in sorted order.
        num_mc_samples: M, draws an update.
        lr, betas, weight_decay: of Adam, which learns the parameters.
        optimizer: makes another optimizer of them.
        seed: of the noise.

    A member defines `draw`, and overrides what it knows better. It draws from `noise` alone, so that a search resumes
    exactly, and all its processes draw the same. `mask` holds what `keep` has left.
    """

    name: ClassVar[str]
    """By which options and files call it."""

    source: ClassVar[str]
    """Author, year."""

    has_logits: ClassVar[bool] = False
    """Whether its draws are of logits, which can be written where a module reads the parameter itself."""

    is_random: ClassVar[bool] = True
    """Whether it draws at all."""

    draws_one: ClassVar[bool] = False
    """Whether its draws compute one candidate a label."""

    learns: ClassVar[bool] = True
    """Whether there is anything to learn; else no search takes architecture steps."""

    needs_gradient: ClassVar[bool] = True
    """Whether it learns from gradients in the weights; else an evaluation is a forward pass alone."""

    needs_accuracy: ClassVar[bool] = False
    """Whether such an evaluation returns the accuracy of a draw, from 0 to 1, in the place of its loss."""

    counts_epochs: bool = True
    """Whether `new_epoch`, where a member defines it, asks how many epochs there are."""

    _counted_one_by_one = 1_024

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        num_mc_samples: PositiveInt = 1,
        lr: Positive = 3e-4,
        betas: Betas = (0.5, 0.999),
        weight_decay: NonNegative = 1e-3,
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
        seed: int = 0,
    ) -> None:
        def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)

        self.parameters = {label: parameters[label] for label in sorted(parameters)}
        self.mask = {label: torch.ones_like(p, dtype=torch.bool) for label, p in self.parameters.items()}
        self.kept: dict[str, list[int]] = {}
        """Label -> choices that are left, of labels with a dropped one; to ask `mask` on a GPU would wait for it."""
        self.weighs_edges = False
        """Whether the edges to a node have learned weights, so that scores compare by products with these."""
        self.num_mc_samples = num_mc_samples
        self.noise = SeededNoise(seed)
        self.optimizer: torch.optim.Optimizer = (optimizer or adam)(list(self.parameters.values()))

    @classmethod
    def edges(cls, logits: Mapping[str, Tensor], options: Mapping[str, Any]) -> EdgeWeights:
        """Return what learns the weights of a node's edges beside this distribution: Adam, as logits of operations are.

        Args:
            logits: node -> tensor whose softmax they are, shape (number of edges,).
            options: of this distribution; those of Adam hold for the edges too.
        """
        adam = {name: options[name] for name in ("lr", "betas", "weight_decay") if name in options}
        return EdgeWeights(logits, **adam)

    def start(self) -> None:  # noqa: B027  # most begin where the parameters are
        """Put the parameters where a new search begins."""

    # -- draws --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def draw(self, parameters: Mapping[str, Tensor]) -> Draw:
        """Return a draw at the given parameters, as a function that can be differentiated."""

    @staticmethod
    def mean_weights(parameter: Tensor) -> Tensor:
        """Return the mean weights of a label, shape (K,), of its parameters (K,): their softmax by default."""
        return parameter.softmax(-1)

    def sample(self) -> Draw:
        """Return one draw of every label."""
        return self.draw(self._leaves())

    def training_draw(self) -> Draw:
        """Return the draw at which a weight step trains the network, where it trains at one."""
        return self.sample()

    def mean(self) -> Draw:
        """Return the mean weights: what validation sees."""
        leaves = self._leaves()
        return Draw(leaves, {label: self.masked(label, self.mean_weights(p)) for label, p in leaves.items()})

    def masked(self, label: str, weights: Tensor) -> Tensor:
        """Return weights with those of dropped choices at 0, adding up to 1 again."""
        if label not in self.kept:
            return weights
        kept = torch.where(self.mask[label], weights, 0)
        return kept / kept.sum(-1, keepdim=True)

    def draws(self) -> Iterable[Draw]:
        """Yield the M draws of an update."""
        return (self.sample() for _ in range(self.num_mc_samples))

    def _leaves(self) -> dict[str, Tensor]:
        return {label: p.detach().clone().requires_grad_() for label, p in self.parameters.items()}

    # -- learning -----------------------------------------------------------------------------------------------------

    def update(self, evaluate: Evaluate) -> Tensor:
        """Take one step on the losses and gradients of M draws; return the mean loss.

        The default follows the mean of the pathwise gradients with the optimizer.
        """
        losses: list[Tensor] = []
        found: list[dict[str, Tensor]] = []
        for draw in self.draws():
            loss, gradients = evaluate(draw)
            losses.append(loss)
            found.append(draw.pull_back(gradients))
        penalty, anchors = self.regulariser()
        self.step(found, anchors)
        return torch.stack(losses).mean() + penalty

    def step(self, gradients: Sequence[Mapping[str, Tensor]], anchors: Mapping[str, Tensor]) -> None:
        """Update the parameters with the gradients of M draws; a label without any keeps its parameters.

        Args:
            gradients: of each draw, label -> gradient in the parameters.
            anchors: label -> gradient of the regulariser.
        """
        for label, parameter in self.parameters.items():
            each = [g[label] for g in gradients if label in g]
            parameter.grad = None if not each else torch.stack(each).sum(0) / len(gradients)
            if label in anchors and parameter.grad is not None:
                parameter.grad += anchors[label]
            if label in self.kept and parameter.grad is not None:
                parameter.grad = torch.where(self.mask[label], parameter.grad, 0)
        self.optimizer.step()

    def regulariser(self) -> tuple[float, dict[str, Tensor]]:
        """Return what is added to the validation loss, and label -> its gradient; nothing by default."""
        return 0.0, {}

    def new_epoch(self, epoch: int, epochs: int) -> None:  # noqa: B027  # most have no schedule
        """Say which epoch of how many begins, from 0: for temperatures and other schedules."""

    def set_dataset_size(self, size: float | None) -> None:  # noqa: B027  # most do not need it
        """Say how many examples the mean validation loss is of; None if nobody knows."""

    def set_zeros(self, zeros: Mapping[str, Collection[int]]) -> None:  # noqa: B027  # most do not ask
        """Say which choices of a label are no operation: their output is 0."""

    def clear_difference(self) -> float | None:
        """Return by how much parameters must differ to make a clear difference; None if a step can have any length."""
        return 1.0

    def keep(self, label: str, indices: Sequence[int]) -> None:
        """Drop all other choices of a label for good: their weights are 0, and what is left adds up to 1.

        Raises:
            OptionError: nothing would be left, or a choice is not there, or was dropped before.
        """
        there = self.mask[label].nonzero().flatten().tolist() if label in self.mask else []
        if not indices or not set(indices) <= set(there):
            raise OptionError(f"label {label!r}: cannot keep choices {list(indices)}; there are {there}")
        self.mask[label] = torch.zeros_like(self.mask[label])
        self.mask[label][list(indices)] = True
        self._find_kept()

    def _find_kept(self) -> None:
        self.kept = {label: m.nonzero().flatten().tolist() for label, m in self.mask.items() if not m.all()}

    @torch.no_grad()
    def lower(self, label: str, amount: float) -> None:
        """Lower all scores of a label, so that it compares otherwise with other labels; its weights stay the same."""
        self.parameters[label] -= amount

    def keep_best(self, number: int) -> None:
        """Keep the `number` best choices of every label, by their scores."""
        for label, scores in self.scores().items():
            self.keep(label, scores.topk(number).indices.tolist())

    @contextmanager
    def only(self, kept: Mapping[str, Sequence[int]]) -> Iterator[None]:
        """Drop all other choices of some labels inside the block alone: draws, mean and updates are of what is kept."""
        mask, before = self.mask, self.kept
        self.mask, self.kept = dict(mask), {**before, **{label: list(indices) for label, indices in kept.items()}}
        for label, indices in kept.items():
            chosen = torch.zeros(mask[label].shape, dtype=torch.bool)
            chosen[list(indices)] = True
            self.mask[label] = chosen.to(mask[label].device)
        try:
            yield
        finally:
            self.mask, self.kept = mask, before

    @staticmethod
    def scaled(parameter: Tensor, factor: Tensor) -> Tensor:
        """Return parameters whose mean weights, before the division by their sum, are `factor` times as large."""
        return parameter + factor.log()

    # -- what it says -------------------------------------------------------------------------------------------------

    def scores(self) -> dict[str, Tensor]:
        """Return label -> what discretisation ranks the choices by, shape (K,); dropped choices have -inf."""
        return {label: p.detach().masked_fill(~self.mask[label], -torch.inf) for label, p in self.parameters.items()}

    def laws(self) -> dict[str, Law]:
        """Return label -> law of the scores whose largest wins in a draw; dropped choices have the location -inf.

        By default each choice is as probable as draws show (`counted_probabilities`). A member that knows the law of
        its draws says it here: probabilities are then exact, and sets of choices as probable as its draws make them.
        """
        log_p = {label: p.log() for label, p in self.counted_probabilities().items()}
        scores = self.scores()
        return {k: GumbelLaw((log_p[k].to(s.device) + s.double().logsumexp(-1)).to(s.dtype)) for k, s in scores.items()}

    def posterior(
        self, choices: Mapping[str, Sequence[str]] | None = None, decisions: Sequence[Decision] | None = None
    ) -> Posterior:
        """Return what has been learned by now, as a copy on the CPU.

        Args:
            choices: label -> names of the candidates; their numbers by default.
            decisions: how the space makes an architecture of scores; one choice per label by default.
        """
        laws = {label: law.to("cpu") for label, law in self.laws().items()}
        scores = {label: values.cpu() for label, values in self.scores().items()}
        return Posterior.of(laws, kind=self.name, scores=scores, choices=choices, decisions=decisions)

    def log_probabilities(self) -> dict[str, Tensor]:
        """Return label -> log P(each choice), shape (K,), float64, in nats."""
        return {label: law.log_win_probability() for label, law in self.laws().items()}

    def entropy(self) -> float:
        """Return the entropy in nats, summed over the labels: see `Posterior.entropy`."""
        return sum(law.entropy() for law in self.laws().values())

    def counted_probabilities(self) -> dict[str, Tensor]:
        """Return label -> share of draws in which each choice has the largest weight, shape (K,), float64.

        16,384 draws (1,024 of a `draw` that cannot make them at once, in `metrics` 64), the same each time; those that
        the search makes are as without them. Half a draw is added to each choice that was not dropped, so that none is
        impossible.
        """
        counts = {label: mask.double().cpu() / 2 for label, mask in self.mask.items()}
        noise, self.noise = self.noise, SeededNoise(0)
        devices = {p.device for p in self.parameters.values() if p.device.type == "cuda"}
        try:
            with torch.no_grad(), torch.random.fork_rng(list(devices)):  # of a member that draws with torch's own
                torch.manual_seed(0)
                for label, winners in self._counted_winners().items():
                    counts[label] += torch.bincount(winners.cpu(), minlength=len(counts[label]))
        finally:
            self.noise = noise
        return {label: n / n.sum() for label, n in counts.items()}

    def _counted_winners(self) -> dict[str, Tensor]:
        """Return label -> which choice wins in each draw; drawn at once, if `draw` can, else one after the other."""
        many = {label: p.detach().expand(_COUNTED, -1) for label, p in self.parameters.items()}
        with suppress(Exception):  # a draw that is not made for this can fail in any way
            weights = self.draw(many).weights
            if all(w.shape == many[label].shape and self._drawn_at_once(label, w) for label, w in weights.items()):
                return {label: w.argmax(-1) for label, w in weights.items()}
        draws = [self.sample().weights for _ in range(self._counted_one_by_one)]
        return {label: torch.stack([draw[label].argmax() for draw in draws]) for label in self.parameters}

    def _drawn_at_once(self, label: str, weights: Tensor) -> bool:
        """Return whether these are draws of a label, shape (draws, K), and not the same one in all rows."""
        decided = not self.is_random or len(self.kept.get(label, weights[0])) == 1
        on_simplex = bool(((weights.sum(-1) - 1).abs() < 1e-3).all())
        return on_simplex and (decided or bool((weights != weights[0]).any()))

    def metrics(self) -> dict[str, float]:
        """Return what is logged of it, every few steps: see `Posterior.metrics`."""
        self._counted_one_by_one = _LOGGED_ONE_BY_ONE
        try:
            return {**self.posterior().metrics(), **self.own_metrics()}
        finally:
            del self._counted_one_by_one

    def own_metrics(self) -> dict[str, float]:
        """Return what the method itself is watched by, name -> number: part of `metrics`, and of the diagnostics."""
        return {}

    # -- resume -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes but the parameters themselves, which their owner saves."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "noise": self.noise.state_dict(),
            "mask": dict(self.mask),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.noise.load_state_dict(state["noise"])
        self.mask = {label: state["mask"][label].to(p.device) for label, p in self.parameters.items()}
        self._find_kept()

"""Algorithm 1 once, over closures: architecture steps and weight steps, whatever framework trains the network.

An adapter says how to evaluate the losses and to step the weights (`Host`), a distribution how weights are drawn and
learned, an `Order` which level goes first, how often, and by which gradient, and a `Perturbation` what is done to the
mixing weights in the weight step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle
from typing import Any, Protocol

import torch
from torch import Tensor

from balenas_plugin.bayes.architect import VirtualStep, frozen, second_order_gradient
from balenas_plugin.distributions import Distribution, Draw, Weights
from balenas_plugin.distributions.uniform import uniform_path
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.mixed_ops import MixedOp
from balenas_plugin.mixed_ops.edge_weights import EdgeWeights
from balenas_plugin.perturbations import Level, Perturbation
from balenas_plugin.schedules import Schedule
from balenas_plugin.search.order import Order

Cost = Callable[[Tensor, Weights], Tensor]
"""Returns what is minimised in the place of a loss, of it and the weights under which costs are expected."""


class SkippedStep(Exception):  # noqa: N818  # it is no error
    """A host raises it in an architecture step that is to be left out."""


class Host(Protocol):
    """The network and its data in one iteration, as an adapter shows them."""

    @property
    def network_weights(self) -> Sequence[Tensor]:
        """The network's weights that are trained."""

    @property
    def iterations(self) -> int | None:
        """How many iterations the epoch has; None if nobody knows."""

    def begin(self) -> None:
        """Prepare a step of either level."""

    def mixing(self, draw: Draw) -> AbstractContextManager[None]:
        """Let every mixed operation use the weights of a draw inside the block."""

    def validation_loss(self, k: int) -> Tensor:
        """Return the mean loss on what the k-th draw of the step sees of the validation batch."""

    def validation_accuracy(self, k: int) -> Tensor:
        """Return the share of it that is classified rightly; only distributions that need it ask for it."""

    def training_loss(self, k: int | None) -> Tensor:
        """Return the mean loss on the same part of the training batch, of all of it for None, without a step."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Let the network be in evaluation mode inside the block; only perturbations ask for it."""

    def examples(self) -> int:
        """Return how many examples the validation loss is the mean of, in all processes."""

    def step_weights(self, clipped_with: Callable[[], list[Tensor]]) -> Tensor | None:
        """Train the network's weights on the training batch; return the loss, None if there is none.

        Args:
            clipped_with: returns, after the backward pass, further gradients that count in a clipped norm.
        """

    @property
    def weight_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the network's weights, for what steps them besides; only perturbations ask for it."""

    def clip_gradients(self) -> None:
        """Clip the gradients of the network's weights as `step_weights` does."""

    def virtual_step(self) -> VirtualStep:
        """Return what the weight optimizer's next step would be; second order only."""

    def average(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Return means over the processes that search together; what no process has stays None.

        Args:
            tensors: None where there is none.
            like: tensors of the same shapes.
        """


class Search:
    """Runs iterations of Algorithm 1.

    Args:
        distribution: of the mixing weights.
        order: of the two levels.
        perturbation: of the mixing weights in the weight step; None: there is none.
        mixed_op: how edges compute their candidates; None: all of them in full.
        cost: joins the loss of the architecture; None: there is none.
        schedule: says in which epochs the architecture is learned, None: in all. An adapter makes its edits.

    Raises:
        OptionError: the parts do not go together.

    Source: Zhang et al. 2022, Algorithm 1; Liu et al. 2019; Dong and Yang 2019 for weights first.
    """

    edges: EdgeWeights | None = None
    """What learns the weights of edges, where they have any."""

    def __init__(
        self,
        distribution: Distribution,
        order: Order,
        perturbation: Perturbation | None = None,
        mixed_op: MixedOp | None = None,
        *,
        cost: Cost | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if distribution.draws_one and order.order == "second":
            raise OptionError(f"{distribution.name} computes one candidate a draw, so it has no second order")
        if order.levels == 1 and not distribution.needs_gradient:
            raise OptionError(f"{distribution.name} compares the losses of several draws, so levels must be 2")
        if order.levels == 1 and distribution.num_mc_samples > 1:
            raise OptionError("levels: 1 has one draw for both levels, so num_mc_samples must be 1")
        if perturbation is not None and (distribution.draws_one or order.weight_step == "uniform"):
            drawn = "a uniform weight step" if order.weight_step == "uniform" else distribution.name
            raise OptionError(
                f"{drawn} computes one candidate a draw, so {perturbation.name} cannot perturb it: that takes the "
                "mixing weights of all candidates"
            )
        if order.levels == 1 and perturbation is not None and perturbation.perturbs:
            raise OptionError(f"levels: 1 has no weight step of its own, which {perturbation.name} perturbs")
        if mixed_op is not None and mixed_op.edge_normalization and not distribution.needs_gradient:
            raise OptionError(
                f"{distribution.name} learns from losses alone, so edge_normalization has no gradient to learn from"
            )
        if cost is not None and (distribution.needs_accuracy or not distribution.learns):
            learned = (
                "from accuracies, which a cost cannot join" if distribution.learns else "nothing, of costs neither"
            )
            raise OptionError(f"{distribution.name} learns {learned}")
        if schedule is not None and not schedule.log:  # later it has changed them itself
            schedule.goes_with(mixed_op)
        self.distribution, self.order, self.perturbation = distribution, order, perturbation
        self.mixed_op, self.cost, self.schedule = mixed_op, cost, schedule

    def learns(self, epoch: int) -> bool:
        """Return whether an epoch has architecture steps."""
        frozen = epoch < self.order.warmup_epochs or (self.schedule is not None and not self.schedule.learns(epoch))
        return self.distribution.learns and not frozen

    def new_epoch(self, epoch: int, epochs: int) -> None:
        """Say which epoch of how many begins, from 0."""
        self.distribution.new_epoch(epoch, epochs)
        if self.perturbation is not None:
            self.perturbation.new_epoch(epoch, epochs)

    def iteration(self, host: Host, *, epoch: int, index: int) -> tuple[Tensor | None, Tensor | None]:
        """Run one iteration; return the training loss, and the validation loss if there was an architecture step.

        Args:
            host: the network and the batches of this iteration.
            epoch: from 0.
            index: of the iteration in its epoch, from 0.
        """
        steps = self._architecture_steps(index, host) if self.learns(epoch) else 0
        if self.order.levels == 1 and steps:
            return self.joint_step(host)
        train_loss = self.weight_step(host) if self.order.first == "weights" else None
        val_loss = None
        for _ in range(steps):
            val_loss = self.architecture_step(host)
        return train_loss if self.order.first == "weights" else self.weight_step(host), val_loss

    def _architecture_steps(self, index: int, host: Host) -> int:
        """Return how many architecture steps the iteration has."""
        wanted = self.order.architecture_steps
        if wanted is None or (iterations := host.iterations) is None:
            return int((index + 1) % self.order.architecture_every == 0)
        return (index + 1) * wanted // iterations - index * wanted // iterations

    def architecture_step(self, host: Host) -> Tensor | None:
        """Update the distribution on the validation batch; return the mean loss over its draws, None if left out."""
        try:
            with self._around(host, "architecture"):
                return self._learn(host)
        except SkippedStep:
            return None

    def _learn(self, host: Host) -> Tensor:
        host.begin()
        draws, edges = cycle(range(self.distribution.num_mc_samples)), self._edges
        of_edges: list[Sequence[Tensor | None]] = []

        def evaluate(draw: Draw) -> tuple[Tensor, Weights]:
            k, parameters = next(draws), list(self.distribution.parameters.values())
            if not self.distribution.needs_gradient:
                loss = self._without_gradient(draw, host, k)
                self._with_cost(draw, loss, {})  # alone: what weighs the draws is their likelihood
                return loss, {}
            inputs = [*draw.weights.values(), *parameters, *edges]  # a loss may read the parameters besides
            found: Sequence[Tensor | None]
            with host.mixing(draw):
                if self.order.order == "first":
                    with frozen(host.network_weights):
                        for parameter in (*parameters, *edges):
                            parameter.grad = None
                        loss = host.validation_loss(k)
                        left_out = draw.chosen or self.distribution.kept
                        if loss.requires_grad or not left_out:  # zeros alone may have been drawn
                            loss.backward()  # not `grad`, which forbids reentrant checkpoints
                        *found, mean = host.average([*(x.grad for x in inputs), loss.detach()], [*inputs, loss])
                else:
                    found, loss = second_order_gradient(
                        train_loss=lambda: host.training_loss(k),
                        val_loss=lambda: host.validation_loss(k),
                        alphas=inputs,
                        weights=host.network_weights,
                        step=host.virtual_step(),
                        finite_difference=self.order.finite_difference,
                        average=lambda tensors: [g for g in host.average(tensors, tensors) if g is not None],
                    )
                    (mean,) = host.average([loss], [loss])
            assert mean is not None
            labels = list(draw.weights)
            draw.direct = _present(labels, found[len(labels) : 2 * len(labels)])
            of_edges.append(found[2 * len(labels) :])
            return self._with_cost(draw, mean, _in_the_weights(draw, found))

        loss = self.distribution.update(evaluate)
        if self.edges is not None:
            self.edges.step(of_edges)
        return loss

    def _without_gradient(self, draw: Draw, host: Host, k: int) -> Tensor:
        """Return the loss of a draw, or its accuracy."""
        with torch.no_grad(), host.mixing(draw):
            if self.distribution.needs_accuracy:
                found = host.validation_accuracy(k)
            else:
                draw.examples = host.examples()
                found = host.validation_loss(k)
        (mean,) = host.average([found], [found])
        assert mean is not None
        return mean

    def _with_cost(self, draw: Draw, loss: Tensor, gradients: Weights) -> tuple[Tensor, Weights]:
        """Return the loss with the cost, and its gradient in the weights; the cost's own goes to the draw."""
        if self.cost is None:
            return loss, gradients
        with torch.enable_grad():
            mean = loss.detach().requires_grad_()
            total = self.cost(mean, draw.expected)
            slope, *found = torch.autograd.grad(total, [mean, *draw.expected.values()], allow_unused=True)
        draw.of_costs = _present(list(draw.expected), found)
        draw.direct = {label: slope * g for label, g in draw.direct.items()}
        return total.detach(), {label: slope * g for label, g in gradients.items()}

    def weight_step(self, host: Host) -> Tensor | None:
        """Train the network's weights at the mean or at a draw; return the loss."""
        with self._around(host, "weights"):
            return self._train(host)

    def _train(self, host: Host) -> Tensor | None:
        host.begin()
        alone = self.order.clip_with == "weights"  # then no gradient of the mixing weights is computed
        with nullcontext() if not alone else torch.no_grad():
            draw = self._weight_step_draw()
        if self.perturbation is not None and self.perturbation.perturbs:
            draw = self._perturbed(draw, self.perturbation, host)
        if alone:
            others = [*self.distribution.parameters.values(), *self._edges]
            with frozen([*draw.weights.values(), *others]), host.mixing(draw):
                return host.step_weights(list)
        with frozen(self._edges), host.mixing(draw):
            return host.step_weights(lambda: self._architecture_gradients(draw, host))

    def _weight_step_draw(self) -> Draw:
        """Return what the weights are trained at."""
        if self.order.weight_step == "uniform":
            return uniform_path(self.distribution)
        return self.distribution.training_draw() if self.order.weight_step == "sample" else self.distribution.mean()

    def joint_step(self, host: Host) -> tuple[Tensor | None, Tensor | None]:
        """Update weights and distribution from one draw and one training batch; return the loss of each."""
        host.begin()
        for parameter in self._edges:
            parameter.grad = None

        def evaluate(draw: Draw) -> tuple[Tensor, Weights]:
            with host.mixing(draw):
                loss = host.step_weights(list)
            if loss is None:
                raise SkippedStep
            inputs = [*draw.weights.values(), *self._edges]
            *found, mean = host.average([*(x.grad for x in inputs), loss.detach()], [*inputs, loss])
            assert mean is not None
            if self.edges is not None:
                self.edges.step([found[len(draw.weights) :]])
            return self._with_cost(draw, mean, _in_the_weights(draw, found))

        try:
            with self._around(host, "architecture", "weights"):
                loss = self.distribution.update(evaluate)
        except SkippedStep:
            return None, None
        return loss, loss

    @property
    def _edges(self) -> Sequence[Tensor]:
        return () if self.edges is None else self.edges.parameters

    def _around(self, host: Host, *levels: Level) -> AbstractContextManager[None]:
        """Let the perturbation surround a step of these levels."""
        return nullcontext() if self.perturbation is None else self.perturbation.around(self.distribution, host, levels)

    def _perturbed(self, draw: Draw, perturbation: Perturbation, host: Host) -> Draw:
        """Return the draw whose weights are perturbed; gradients in them are not pulled back any further."""
        others = [*host.network_weights, *self.distribution.parameters.values(), *self._edges]

        def evaluate(weights: Weights, gradient: bool) -> tuple[Tensor, Weights]:
            tried = Draw(weights, weights)
            inputs = list(tried.weights.values())
            with torch.enable_grad(), host.mixing(tried), frozen(others if gradient else [*others, *inputs]):
                loss = host.training_loss(None)
                if gradient and loss.requires_grad:
                    loss.backward()
            *found, mean = host.average([*(w.grad for w in inputs), loss.detach()], [*inputs, loss])
            assert mean is not None
            return mean, {label: torch.zeros_like(w) for label, w in weights.items()} | _present(list(weights), found)

        try:
            with host.evaluating():
                weights = perturbation(draw.weights, self.distribution.mask, evaluate)
        except SkippedStep:
            return draw
        leaves = {label: w.requires_grad_() for label, w in weights.items()}
        return Draw(leaves, leaves)

    def _architecture_gradients(self, draw: Draw, host: Host) -> list[Tensor]:
        """Return the gradients of the distribution's parameters that a weight step's backward pass left."""
        inputs = list(draw.weights.values())
        found = draw.pull_back(_in_the_weights(draw, host.average([w.grad for w in inputs], inputs)))
        if self.order.clip_with == "architecture":
            return list(found.values())
        before = {label: p.grad for label, p in self.distribution.parameters.items() if p.grad is not None}
        return [g + before[label] if label in before else g for label, g in found.items()]

    # -- resume -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the parts, and their names."""
        parts = {kind: part.state_dict() for kind, part in self._changing().items() if part is not None}
        named = {} if self.mixed_op is None else {"mixed_op": {"name": self.mixed_op.name}}
        return {"name": self.distribution.name, **self.distribution.state_dict(), **parts, **named}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`.

        Raises:
            FileFormatError: it is of a search with another perturbation, mixed operation or schedule.
        """
        require_part("perturbation", state, self.perturbation)
        require_part("mixed_op", state, self.mixed_op)
        require_part("schedule", state, self.schedule)
        self.distribution.load_state_dict(state)
        for kind, part in self._changing().items():
            if part is not None:
                part.load_state_dict(state[kind])

    def _changing(self) -> dict[str, Any]:
        return {"perturbation": self.perturbation, "schedule": self.schedule, "edges": self.edges}


def require_part(kind: str, state: Mapping[str, Any], part: Perturbation | MixedOp | Schedule | None) -> None:
    """Raise FileFormatError unless the state of a search is of one with the same part of a kind."""
    found = repr(state[kind]["name"]) if kind in state else "none"
    own = "none" if part is None else repr(part.name)
    if found != own:
        raise FileFormatError(
            f"the checkpoint is of a search whose {kind} is {found}, and that of this one is {own}. Start the search "
            "anew."
        )


def _present(labels: Sequence[str], gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
    return {label: g for label, g in zip(labels, gradients, strict=True) if g is not None}


def _in_the_weights(draw: Draw, found: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Return label -> gradient in the weights; of what a drawn path does not reach, 0, as in a sum over all."""
    labels = list(draw.weights)
    unreached = {label: torch.zeros_like(draw.weights[label]) for label in draw.chosen}
    return {**unreached, **_present(labels, found[: len(labels)])}

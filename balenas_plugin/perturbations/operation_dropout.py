"""DropNAS: operations are dropped at random, in groups, and what is kept is learned alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from balenas_plugin.distributions import Distribution
from balenas_plugin.options import checked
from balenas_plugin.perturbations._perturbation import Level, Perturbation, Trained

Rate = Annotated[float, Field(gt=0, lt=1)]

_REACHED = 1e-7
"""The least gradient of an architecture parameter that counts as one, as in the reference."""


class OperationDropout(Perturbation):
    r"""Drop operations anew for each batch: they are not computed, and the weights of those kept add up to 1.

    The operations of a label form two groups, those with weights and those without. Of a group G each is dropped with
    probability :math:`r^{1/|G|}`, so that r is the chance that all are; then the group is drawn again. The distribution
    learns of what is kept; afterwards the kept ones are scaled to have together the share that they had before
    (alpha-adjust), so that the dropped ones keep their probabilities. In warm-up, and in the weight step of a search of
    two levels, operations are dropped as well. Choices that are not among operations are left alone.

    Args:
        rate: r; not the rate at which a single operation is dropped.
        partial_decay: take the weight decay of both optimizers out of their steps, and make a second step a batch of
            it alone, of what the first reached: weights with a gradient, and logits with one above 1e-7. As in the
            reference, the gradient of that step is 2 decay w, it is clipped too, and momentum and moments go on.
        seed: of the noise.

    Source: Hong et al. 2020, "DropNAS: Grouped Operation Dropout for Differentiable Architecture Search".
    """

    name = "operation-dropout"
    source = "Hong et al. 2020"

    def __init__(self, *, rate: Rate = 3e-5, partial_decay: bool = False, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.rate = float(checked("rate", rate, Rate))
        self.partial_decay = checked("partial_decay", partial_decay, bool)
        self._parameterised: Mapping[str, Sequence[bool]] | None = None

    def set_parameterised(self, parameterised: Mapping[str, Sequence[bool]]) -> None:
        """Learn the groups; before, all choices of a label are one."""
        self._parameterised = parameterised

    def draw(self, distribution: Distribution) -> dict[str, list[int]]:
        """Return label -> operations that are kept, of the labels where one is dropped; a fresh draw."""
        kept = {}
        for label, parameter in distribution.parameters.items():
            there = distribution.kept.get(label, list(range(len(parameter))))
            flags = [True] * len(parameter) if self._parameterised is None else self._parameterised.get(label)
            if flags is not None:
                groups = [[k for k in there if flags[k] is has_weights] for has_weights in (True, False)]
                left = sorted(k for group in groups for k in self._survivors(group))
                kept.update({} if left == there else {label: left})
        return kept

    def _survivors(self, group: list[int]) -> list[int]:
        survivors: list[int] = []
        while group and not survivors:
            u = self.noise.uniform(torch.empty(len(group), dtype=torch.float64), 1.0).abs()
            survivors = [k for k, value in zip(group, u.tolist(), strict=True) if value > self.rate ** (1 / len(group))]
        return survivors

    @contextmanager
    def around(self, distribution: Distribution, network: Trained, levels: Collection[Level]) -> Iterator[None]:
        """Drop operations inside the block, and adjust what was learned behind it."""
        kept = self.draw(distribution)
        before = _shares(distribution, kept)
        with distribution.only(kept), ExitStack() as decays:
            if self.partial_decay and "weights" in levels:
                clip = network.clip_gradients
                decays.enter_context(decayed_apart(network.weight_optimizer, lambda g: (g != 0).any(), clip))
            if self.partial_decay and "architecture" in levels:
                decays.enter_context(decayed_apart(distribution.optimizer, lambda g: g.abs() > _REACHED))
            yield
        if "architecture" in levels:
            _adjust(distribution, kept, before)


def _shares(distribution: Distribution, kept: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return label -> ratio of what is kept to what is dropped in the mean weights, a scalar."""
    shares = {}
    for label, indices in kept.items():
        weights = distribution.masked(label, distribution.mean_weights(distribution.parameters[label].detach()))
        share = weights[list(indices)].sum()
        dropped = [k for k in range(len(weights)) if k not in indices]
        shares[label] = share / weights[dropped].sum()
    return shares


@torch.no_grad()
def _adjust(distribution: Distribution, kept: Mapping[str, Sequence[int]], before: Mapping[str, Tensor]) -> None:
    """Scale what is kept so that its share of the mean weights is what it was before."""
    for label, after in _shares(distribution, kept).items():
        parameter, indices = distribution.parameters[label], list(kept[label])
        factor = before[label] / after
        scaled = distribution.scaled(parameter[indices], torch.where(factor.isfinite() & (factor > 0), factor, 1))
        parameter[indices] = scaled


@contextmanager
def decayed_apart(
    optimizer: torch.optim.Optimizer, reached: Callable[[Tensor], Tensor], clip: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Leave weight decay out of the step in the block, and make another step of it alone behind the block.

    Args:
        optimizer: that makes a step in the block.
        reached: gradient of the step -> whether its entries, or all of them, decay.
        clip: of the gradients of the decay.
    """
    groups = [group for group in optimizer.param_groups if group.get("weight_decay")]
    rates = [group["weight_decay"] for group in groups]
    for group in groups:
        group["weight_decay"] = 0.0
    try:
        yield
        if groups:
            _decay(optimizer, dict(zip(map(id, groups), rates, strict=True)), reached)
            clip()
            optimizer.step()
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["weight_decay"] = rate


@torch.no_grad()
def _decay(optimizer: torch.optim.Optimizer, rates: Mapping[int, float], reached: Callable[[Tensor], Tensor]) -> None:
    """Put 2 rate w in the place of every gradient, 0 where it had not reached."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad = 2 * rates.get(id(group), 0.0) * p * reached(p.grad)

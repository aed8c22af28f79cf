"""Which level of a search is updated when, and by which gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from balenas_plugin.errors import OptionError
from balenas_plugin.options import NonNegativeInt, PositiveInt, declared_options

FirstStep = Literal["architecture", "weights"]
GradientOrder = Literal["first", "second"]
FiniteDifference = Literal["central", "one-sided"]
WeightStep = Literal["mean", "sample", "uniform"]
ClippedWith = Literal["weights", "architecture", "stale-architecture"]
Levels = Annotated[int, Field(ge=1, le=2)]


@declared_options()
@dataclass(frozen=True, kw_only=True)
class Order:
    """Which level is updated when, and by which gradient.

    Args:
        first: "architecture", as in DARTS and BaLeNAS, or "weights", as in GDAS.
        architecture_every: an architecture step every so many iterations.
        architecture_steps: in its place so many an epoch, spread evenly; where an epoch has less iterations, several on
            one validation batch. Where nobody knows how many iterations an epoch has, `architecture_every` counts.
        order: "first", or "second" for the gradient through one unrolled weight step.
        finite_difference: of the second order, see `second_order_gradient`.
        weight_step: train the weights at the "mean" of the distribution, at a "sample", or at a "uniform" path: one
            candidate a label, each with the same probability, whatever is learned (RandomNAS, SETN).
        warmup_epochs: epochs at the start without architecture steps.
        levels: 2, a batch for each level; or 1, both levels from one draw on the training batch, as in SNAS.
        clip_with: what counts when the gradient of the network's weights is clipped by its norm: the "weights" alone,
            or also the gradient of the "architecture" in the weight step, as in some references; "stale-architecture"
            adds that of the last architecture step to it, as GDAS's reference does.

    Raises:
        OptionError: an option has a wrong type or is out of range.
    """

    first: FirstStep = "architecture"
    architecture_every: PositiveInt = 1
    architecture_steps: PositiveInt | None = None
    order: GradientOrder = "first"
    finite_difference: FiniteDifference = "central"
    weight_step: WeightStep = "mean"
    warmup_epochs: NonNegativeInt = 0
    levels: Levels = 2
    clip_with: ClippedWith = "weights"

    def __post_init__(self) -> None:
        of_two = (self.order, self.first, self.architecture_every, self.architecture_steps)
        if self.levels == 1 and of_two != ("first", "architecture", 1, None):
            raise OptionError("levels: 1 has one step for both, so order, first and architecture_... say nothing")
        if self.levels == 1 and (self.clip_with != "weights" or self.weight_step == "uniform"):
            what = f"clip_with: {self.clip_with}" if self.clip_with != "weights" else "a uniform weight step"
            raise OptionError(f"levels: 1 has no weight step of its own, which {what} is for")
        if self.order == "first" and self.finite_difference != "central":
            raise OptionError('finite_difference is of order "second": set that, or leave it out')

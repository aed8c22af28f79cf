"""Which parts of a search do not go together; each refusal is one sentence that says why."""

from __future__ import annotations

from balenas_plugin.distributions import Distribution
from balenas_plugin.errors import OptionError
from balenas_plugin.mixed_ops import MixedOp
from balenas_plugin.perturbations import Perturbation
from balenas_plugin.schedules import Schedule
from balenas_plugin.search.order import Order


def require_together(
    distribution: Distribution,
    order: Order,
    perturbation: Perturbation | None = None,
    mixed_op: MixedOp | None = None,
    *,
    costs: bool = False,
    schedule: Schedule | None = None,
) -> None:
    """Raise OptionError if the parts of a search do not go together.

    Args:
        distribution: of the mixing weights.
        order: of the two levels.
        perturbation: of the mixing weights in the weight step.
        mixed_op: how edges compute their candidates.
        costs: whether a cost joins the loss of the architecture.
        schedule: what happens between epochs; one that has edited the search already is not asked again.
    """
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
    normalised = mixed_op is not None and mixed_op.edge_normalization
    if not distribution.learns:
        idle = {"a cost": costs, "edge_normalization": normalised, "a schedule": schedule is not None}
        for part in (part for part, given in idle.items() if given):
            raise OptionError(f"{distribution.name} learns nothing, which {part} is for")
    if normalised and not distribution.needs_gradient:
        raise OptionError(
            f"{distribution.name} learns from losses alone, so edge_normalization has no gradient to learn from"
        )
    if costs and distribution.needs_accuracy:
        raise OptionError(f"{distribution.name} learns from accuracies, which a cost cannot join")
    if costs and schedule is not None and schedule.deepens:
        raise OptionError(
            f"{schedule.name} searches networks of other depths than the space that was given, and costs are of that"
        )
    if schedule is not None and not schedule.log:  # later it has changed them itself
        schedule.goes_with(mixed_op)


def require_splittable(distribution: Distribution, order: Order) -> None:
    """Raise OptionError if draws cannot see a part of the batch each (mc_batches: split)."""
    if not distribution.needs_gradient:
        raise OptionError(
            f"{distribution.name} compares the losses of draws, so they must see the same examples: "
            'mc_batches must be "full"'
        )
    if order.levels == 1:
        raise OptionError('levels: 1 has one draw, which sees the whole batch: mc_batches must be "full"')

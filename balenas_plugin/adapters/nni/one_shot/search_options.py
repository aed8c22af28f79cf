"""The options of a search that any distribution shares, validated once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import torch
from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty
from torch import Tensor, nn

from balenas_plugin.adapters.nni.supernets.parameters import parameterised_candidates
from balenas_plugin.costs import CostOptions
from balenas_plugin.distributions import Distribution, distribution_options
from balenas_plugin.errors import EvaluatorError, OptionError
from balenas_plugin.mixed_ops import MixedOpOption
from balenas_plugin.options import NonNegativeInt, Positive, PositiveInt, Share, declared_options
from balenas_plugin.perturbations import Perturbation, PerturbationOption, perturbation_of
from balenas_plugin.schedules import ScheduleOption
from balenas_plugin.search import Order
from balenas_plugin.search.order import (
    ClippedWith,
    FiniteDifference,
    FirstStep,
    GradientOrder,
    Levels,
    WeightStep,
)
from balenas_plugin.selection.proxy_selection import Selection
from balenas_plugin.training.recipe import Recipe, load_recipe


@declared_options(called="the search")
@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search, whatever distribution it learns.

    Args:
        first: "architecture" or "weights": which step an iteration begins with.
        architecture_every: an architecture step every so many iterations.
        architecture_steps: in its place so many an epoch, spread evenly over its iterations.
        levels: 2, a batch for each step; or 1, both from one draw on the training batch.
        mc_batches: "full" shows the whole validation batch to each of the M draws; "split" shows each draw its own M-th
            part, so that a step costs what it does at M = 1. A batch of less than 2 M examples is not split.
        order: "first", or "second" for the gradient through one unrolled weight step (Eq. 1).
        finite_difference: for order "second": "central" as in the reference, or "one-sided" with one evaluation less.
        arc_learning_rate: learning rate of the distribution, for logits in logits per step.
        weight_step_alpha: train the weights at the "mean", at a "sample" (a draw), or at "uniform" paths: one candidate
            a choice, each with the same probability, whatever is learned.
        perturbation: of the mixing weights: "sdarts-rs", "sdarts-adv" in the weight step, "operation-dropout" in both,
            or {"name": ..., options} (`balenas_plugin.perturbations`).
        mixed_op: how edges compute their candidates: "partial-channels", "merged-convolutions", or {"name":
            ..., options} (`balenas_plugin.mixed_ops`); None: all of them, in full.
        schedule: what happens between epochs: "p-darts", "drnas-progressive", "darts-es", "darts-plus", or
            {"name": ..., options} (`balenas_plugin.schedules`).
        warmup_epochs: epochs at the start without architecture steps; 0.3 is a share of all epochs, rounded down.
        gradient_clip_val: clip the norm of the weight gradients; None leaves it to the trainer.
        clip_with: which gradients count in that norm, see `balenas_plugin.search.Order`.
        cost: of the architecture, joined to its loss: {"name": "latency", "flops" or "params", "reference": ...}, with
            the other options of `balenas_plugin.costs.CostOptions`.
        penalty: an `ExpectationProfilerPenalty` of NNI, or a dict of its arguments, in the place of `cost`.
        log_prob_every_n_step: log probabilities and the entropy every so many steps.
        validate_every_n_epochs: validate at the mean every so many epochs; 1: the trainer's number; 0 never validates.
        fused: compute the candidates of mixed operations together where they are understood (see `fusion_report`).
        recompute: compute the drawn candidates of fused modules once more in the backward pass, in the place of keeping
            what is in them: a drawn path takes half the memory and up to a third more time, with the same results.
        channels_last: keep image tensors in channels-last memory. None: on a CPU and where a GPU computes in 16 bits,
            if the network allows it.
        compile: run the network's forward and backward through torch.compile: True, or a mode of it ("reduce-overhead"
            and "max-autotune" capture CUDA graphs on a GPU). What cannot be compiled runs as it is, after a message.
        selection: how `list_models` ranks what was found: "synflow" for the paper's BaLeNAS-TF, another of
            `NAMED_SELECTIONS`, a `ProxySelection` (or a dict of its options); None for the order of probability.
        candidate_trials: in an experiment with NNI's training-service engine, and so with its web page, the search is a
            trial; so many of the best architectures it finds then become trials of their own.
        candidate_recipe: train each of them from scratch with a recipe of `balenas train`, by its name or file
            (`trained` has the results). None: with the search's own evaluator.
        candidate_epochs: train each of them so long. 0: as the recipe says; without one, a trial only reports what the
            search knows of its architecture.

    Raises:
        OptionError: an option has a wrong type or is out of range.
    """

    mc_batches: Literal["full", "split"] = "full"
    first: FirstStep = "architecture"
    architecture_every: PositiveInt = 1
    architecture_steps: PositiveInt | None = None
    levels: Levels = 2
    order: GradientOrder = "first"
    finite_difference: FiniteDifference = "central"
    weight_step_alpha: WeightStep = "mean"
    perturbation: PerturbationOption = None
    mixed_op: MixedOpOption = None
    schedule: ScheduleOption = None
    warmup_epochs: NonNegativeInt | Share = 0
    arc_learning_rate: Positive = 3e-4
    gradient_clip_val: Positive | None = None
    clip_with: ClippedWith = "weights"
    cost: CostOptions | None = None
    penalty: Mapping[str, Any] | ExpectationProfilerPenalty | None = None
    log_prob_every_n_step: PositiveInt = 10
    validate_every_n_epochs: NonNegativeInt = 1
    fused: bool = True
    recompute: bool = True
    channels_last: bool | None = None
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = False
    selection: Selection = None
    candidate_trials: NonNegativeInt = 10
    candidate_recipe: str | Recipe | None = None
    candidate_epochs: NonNegativeInt = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", _penalty(self.penalty))
        if self.candidate_recipe is not None:
            object.__setattr__(self, "candidate_recipe", load_recipe(self.candidate_recipe))
        self.update_order()
        if self.cost is not None and self.penalty is not None:
            raise OptionError("cost and penalty both join the loss of the architecture: give one of them")

    @property
    def candidate_training(self) -> Recipe | None:
        """How architectures that become trials are trained, if by a recipe."""
        if not isinstance(self.candidate_recipe, Recipe):
            return None
        return self.candidate_recipe.replace(epochs=self.candidate_epochs or self.candidate_recipe.epochs)

    @property
    def training_epochs(self) -> int:
        """How long architectures that become trials are trained; 0: not at all."""
        return self.candidate_epochs if self.candidate_training is None else self.candidate_training.epochs

    @property
    def compile_mode(self) -> str | None:
        """One of torch.compile's modes, or None not to compile."""
        return ("default" if self.compile else None) if isinstance(self.compile, bool) else self.compile

    def perturbed_by(self, seed: Callable[[], int], supernet: nn.Module | None = None) -> Perturbation | None:
        """Return what perturbs the mixing weights; `seed`, of its noise, is asked if there is anything."""
        found = None if self.perturbation is None else perturbation_of(self.perturbation, seed=seed())
        if found is not None and supernet is not None:
            found.set_parameterised(parameterised_candidates(supernet))
        return found

    def update_order(self, warmup_epochs: int = 0) -> Order:
        """Return which level is updated when, for Algorithm 1, behind so many epochs of warm-up."""
        return Order(
            first=self.first,
            architecture_every=self.architecture_every,
            architecture_steps=self.architecture_steps,
            levels=self.levels,
            order=self.order,
            finite_difference=self.finite_difference,
            weight_step=self.weight_step_alpha,
            warmup_epochs=warmup_epochs,
            clip_with=self.clip_with,
        )


def warmup_of(warmup_epochs: float, epochs: int | None) -> int:
    """Return how many epochs a warm-up takes.

    Args:
        warmup_epochs: their number, or a share of all.
        epochs: of the search; None or -1: it never ends.

    Raises:
        OptionError: no epochs are left to search in.
    """
    endless = epochs is None or epochs < 0
    if 0 < warmup_epochs < 1:
        if endless:
            raise OptionError(
                f"warmup_epochs is {warmup_epochs}, a share of all epochs, but the search has no number of epochs: "
                "give it one, or warmup_epochs a whole number"
            )
        return int(round(warmup_epochs * cast(int, epochs), 6))
    if not endless and 0 < cast(int, epochs) <= warmup_epochs:
        raise OptionError(
            f"warmup_epochs must be less than the number of epochs, {epochs}, or nothing is searched; got "
            f"{warmup_epochs}. Lower it, or search for more epochs."
        )
    return int(warmup_epochs)


def require_precision(trainer: Any, alphas: Iterable[Tensor]) -> None:
    """Raise EvaluatorError if the trainer computes in a precision in which a search cannot."""
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise EvaluatorError(
            "precision 16-mixed scales losses, which gradients of the architecture are not freed of; use bf16-mixed or "
            "32"
        )
    if any(alpha.dtype in (torch.bfloat16, torch.float16) for alpha in alphas):
        raise EvaluatorError(
            f"precision {trainer.precision} keeps everything in 16 bits, where a posterior cannot be updated; use "
            "bf16-mixed, which computes in 16 bits and keeps the weights and the posterior in 32"
        )


def require_clipping_once(gradient_clip_val: float | None, trainer: Any) -> None:
    """Raise OptionError if the strategy and the trainer clip gradients at different values."""
    if gradient_clip_val is not None and trainer.gradient_clip_val not in (None, gradient_clip_val):
        raise OptionError(
            f"the strategy has gradient_clip_val={gradient_clip_val}, but the trainer {trainer.gradient_clip_val}: "
            "give one of them"
        )


def validation_interval(options: SearchOptions, trainer: Any) -> int | None:
    """Return every how many epochs to validate: the strategy's number or the trainer's, whichever is not 1.

    None: the trainer counts batches over all epochs (val_check_interval).

    Raises:
        OptionError: they contradict each other.
    """
    own, trainers = options.validate_every_n_epochs, trainer.check_val_every_n_epoch
    if own == 1:
        return trainers
    if trainers not in (1, own):
        raise OptionError(
            f"the strategy has validate_every_n_epochs={own}, but the trainer check_val_every_n_epoch={trainers}: give "
            "one of them"
        )
    return own


OPTION_NAMES = tuple(field.name for field in fields(SearchOptions))


def own_options(kind: type[Distribution]) -> type[Any]:
    """Return the options of a distribution.

    Raises:
        OptionError: one of them has the name of an option of every search, which would be taken for it.
    """
    own = distribution_options(kind)
    for name in (field.name for field in fields(own) if field.name in OPTION_NAMES):
        raise OptionError(f"the distribution {kind.name} has an option {name}, as every search has: call it otherwise")
    return own


def _penalty(given: Any) -> ExpectationProfilerPenalty | None:
    """Return NNI's penalty, made of a dict of its arguments if need be."""
    if isinstance(given, dict):
        try:
            return ExpectationProfilerPenalty(**given)
        except TypeError as error:
            raise OptionError(f"penalty does not fit NNI's ExpectationProfilerPenalty: {error}") from error
    return given

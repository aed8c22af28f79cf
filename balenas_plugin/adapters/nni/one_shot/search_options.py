"""The options of a search that any distribution shares, validated once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty

from balenas_plugin.adapters.nni.supernets.compilation import MODES
from balenas_plugin.errors import OptionError
from balenas_plugin.search import Order
from balenas_plugin.search.algorithm import WEIGHT_STEPS
from balenas_plugin.selection import ProxySelection
from balenas_plugin.validation import require_flag, require_positive, require_whole, require_word

MC_BATCHES = ("full", "split")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search, whatever distribution it learns; their meaning is documented at `DistributionStrategy`.

    Raises:
        OptionError: an option has a wrong type or is out of range.
    """

    mc_batches: str = "full"
    first: str = "architecture"
    architecture_every: int = 1
    levels: int = 2
    order: str = "first"
    finite_difference: str = "central"
    weight_step_alpha: str = "mean"
    warmup_epochs: int = 0
    arc_learning_rate: float = 3e-4
    gradient_clip_val: float | None = None
    clip_with: str = "weights"
    penalty: Any = None
    log_prob_every_n_step: int = 10
    validate_every_n_epochs: int = 1
    fused: bool = True
    channels_last: bool | None = None
    compile: bool | str = False
    selection: Any = None
    candidate_trials: int = 10
    candidate_epochs: int = 0

    def __post_init__(self) -> None:
        require_word("mc_batches", self.mc_batches, MC_BATCHES)
        require_word("weight_step_alpha", self.weight_step_alpha, WEIGHT_STEPS)
        require_whole("log_prob_every_n_step", self.log_prob_every_n_step, least=1)
        require_whole("validate_every_n_epochs", self.validate_every_n_epochs, least=0)
        require_whole("candidate_trials", self.candidate_trials, least=0)
        require_whole("candidate_epochs", self.candidate_epochs, least=0)
        require_flag("fused", self.fused)
        if self.channels_last is not None:
            require_flag("channels_last", self.channels_last)
        if not isinstance(self.compile, bool):
            require_word("compile", self.compile, MODES)
        if self.gradient_clip_val is not None:
            require_positive("gradient_clip_val", self.gradient_clip_val)
        require_positive("arc_learning_rate", self.arc_learning_rate)
        object.__setattr__(self, "penalty", _penalty(self.penalty))
        object.__setattr__(self, "selection", ProxySelection.of(self.selection))
        self.update_order()
        if self.levels == 1 and self.penalty is not None:
            raise OptionError("a penalty is part of the architecture step, and levels: 1 has none of its own")

    @property
    def compile_mode(self) -> str | None:
        """One of torch.compile's modes, or None not to compile."""
        return ("default" if self.compile else None) if isinstance(self.compile, bool) else self.compile

    def update_order(self) -> Order:
        """Return which level is updated when, for Algorithm 1."""
        return Order(
            first=self.first,
            architecture_every=self.architecture_every,
            levels=self.levels,
            order=self.order,
            finite_difference=self.finite_difference,
            weight_step=self.weight_step_alpha,
            warmup_epochs=self.warmup_epochs,
            clip_with=self.clip_with,
        )


def require_search_epochs(warmup_epochs: float, epochs: int | None) -> None:
    """Raise OptionError unless epochs are left to search in after the warm-up; None or -1 epochs never end."""
    if epochs is not None and 0 < epochs <= warmup_epochs:
        raise OptionError(
            f"warmup_epochs must be less than the number of epochs, {epochs}, or nothing is searched; got "
            f"{warmup_epochs}. Lower it, or search for more epochs."
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


def _penalty(given: Any) -> ExpectationProfilerPenalty | None:
    """Return NNI's penalty, made of a dict of its arguments if need be."""
    if isinstance(given, dict):
        try:
            return ExpectationProfilerPenalty(**given)
        except TypeError as error:
            raise OptionError(f"penalty does not fit NNI's ExpectationProfilerPenalty: {error}") from error
    if given is not None and not isinstance(given, ExpectationProfilerPenalty):
        raise OptionError(
            f"penalty must be an ExpectationProfilerPenalty, a dict of its arguments or None, got {given!r}"
        )
    return given

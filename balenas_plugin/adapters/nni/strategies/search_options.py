"""The options of a BaLeNAS search, validated once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty

from balenas_plugin.adapters.nni.one_shot.compilation import MODES
from balenas_plugin.bayes.architect import FINITE_DIFFERENCES
from balenas_plugin.bayes.vadam import validate_options
from balenas_plugin.errors import OptionError
from balenas_plugin.search import Order
from balenas_plugin.validation import require_flag, require_positive, require_whole, require_word

ORDERS = ("first", "second")
MC_BATCHES = ("full", "split")
WEIGHT_STEP_ALPHAS = ("mean", "sample")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of `BaLeNAS`, named as NNI's DARTS names them where it has them; their meaning is documented there.

    Raises:
        OptionError: an option has a wrong type or is out of range.
    """

    num_mc_samples: int = 3
    mc_batches: str = "full"
    antithetic: bool = False
    order: str = "first"
    finite_difference: str = "central"
    update: str = "vadam"
    arc_learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    prior_precision: float = 1.0
    initial_precision: float = 1.0
    dataset_size: float | None = None
    weight_step_alpha: str = "mean"
    warmup_epochs: int = 0
    gradient_clip_val: float | None = None
    penalty: Any = None
    log_prob_every_n_step: int = 10
    validate_every_n_epochs: int = 1
    fused: bool = True
    channels_last: bool | None = None
    compile: bool | str = False

    def __post_init__(self) -> None:
        require_word("order", self.order, ORDERS)
        require_word("mc_batches", self.mc_batches, MC_BATCHES)
        require_word("finite_difference", self.finite_difference, FINITE_DIFFERENCES)
        require_flag("antithetic", self.antithetic)
        require_word("weight_step_alpha", self.weight_step_alpha, WEIGHT_STEP_ALPHAS)
        require_whole("warmup_epochs", self.warmup_epochs, least=0)
        require_whole("log_prob_every_n_step", self.log_prob_every_n_step, least=1)
        require_whole("validate_every_n_epochs", self.validate_every_n_epochs, least=0)
        require_flag("fused", self.fused)
        if self.channels_last is not None:
            require_flag("channels_last", self.channels_last)
        if not isinstance(self.compile, bool):
            require_word("compile", self.compile, MODES)
        if self.gradient_clip_val is not None:
            require_positive("gradient_clip_val", self.gradient_clip_val)
        if self.dataset_size is not None:
            require_positive("dataset_size", self.dataset_size)
        require_positive("arc_learning_rate", self.arc_learning_rate)
        object.__setattr__(self, "penalty", _penalty(self.penalty))
        validate_options(self.vadam_options())
        if self.antithetic and self.num_mc_samples < 2:
            raise OptionError(
                f"antithetic draws come in pairs: num_mc_samples must be at least 2, got {self.num_mc_samples}"
            )

    @property
    def compile_mode(self) -> str | None:
        """One of torch.compile's modes, or None not to compile."""
        return ("default" if self.compile else None) if isinstance(self.compile, bool) else self.compile

    def update_order(self) -> Order:
        """Return which level is updated when, for Algorithm 1."""
        return Order(
            order=self.order,
            finite_difference=self.finite_difference,
            weight_step=self.weight_step_alpha,
            warmup_epochs=self.warmup_epochs,
        )

    def vadam_options(self) -> dict[str, Any]:
        """Return the keyword arguments of `VAdam`; N is 1 until the size of the validation set is known."""
        return {
            "lr": self.arc_learning_rate,
            "betas": self.betas,
            "prior_precision": self.prior_precision,
            "initial_precision": self.initial_precision,
            "dataset_size": 1 if self.dataset_size is None else self.dataset_size,
            "num_mc_samples": self.num_mc_samples,
            "update": self.update,
            "antithetic": self.antithetic,
        }


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

"""The options of `BaLeNASOptimizer`, read from NASLib's `config.search` and validated once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from balenas_plugin.bayes.architect import FINITE_DIFFERENCES
from balenas_plugin.bayes.vadam import validate_options
from balenas_plugin.errors import OptionError
from balenas_plugin.search import Order
from balenas_plugin.selection import ProxySelection
from balenas_plugin.validation import require_flag, require_positive, require_whole, require_word

ORDERS = ("first", "second")
WEIGHT_STEP_ALPHAS = ("mean", "sample")
_FIRST_AUTHORS_N = 25_000


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search; where NASLib's config has a name for one, that is its name. See `BaLeNASOptimizer`.

    Raises:
        OptionError: an option has a wrong type or is out of range, or two contradict each other.
    """

    num_mc_samples: int = 3
    antithetic: bool = False
    order: str | None = None
    unrolled: bool = False
    finite_difference: str = "central"
    update: str = "vadam"
    arch_learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    prior_precision: float = 1.0
    initial_precision: float = 1.0
    dataset_size: float | None = None
    data_size: float | None = None
    weight_step_alpha: str = "mean"
    warmup_epochs: int = 0
    selection: str | ProxySelection | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        require_flag("unrolled", self.unrolled)
        require_flag("antithetic", self.antithetic)
        require_word("finite_difference", self.finite_difference, FINITE_DIFFERENCES)
        order = ("second" if self.unrolled else "first") if self.order is None else self.order
        require_word("order", order, ORDERS)
        if self.unrolled and order == "first":
            raise OptionError("unrolled: true means order: second, but order is first; leave one of them out")
        require_word("weight_step_alpha", self.weight_step_alpha, WEIGHT_STEP_ALPHAS)
        require_whole("warmup_epochs", self.warmup_epochs, least=0)
        for name in ("dataset_size", "data_size"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        require_positive("arch_learning_rate", self.arch_learning_rate)
        given = dict(self.selection) if isinstance(self.selection, Mapping) else self.selection
        object.__setattr__(self, "order", order)
        selection = ProxySelection.of(given)
        if selection is not None and selection.needs_supernet:
            raise OptionError(
                "selection: supernet_accuracy is for searches in NNI; NASLib does not hand its data to an optimizer. "
                'Use a zero-cost proxy, e.g. selection="synflow"'
            )
        object.__setattr__(self, "selection", selection)
        validate_options(self.vadam_options())
        if self.antithetic and self.num_mc_samples < 2:
            raise OptionError(
                f"antithetic draws come in pairs: num_mc_samples must be at least 2, got {self.num_mc_samples}"
            )

    def update_order(self) -> Order:
        """Return which level is updated when, for Algorithm 1."""
        return Order(
            order=str(self.order),
            finite_difference=self.finite_difference,
            weight_step=self.weight_step_alpha,
            warmup_epochs=self.warmup_epochs,
        )

    def vadam_options(self) -> dict[str, Any]:
        """Return the keyword arguments of `VAdam`."""
        return {
            "lr": self.arch_learning_rate,
            "betas": tuple(self.betas) if isinstance(self.betas, list) else self.betas,
            "prior_precision": self.prior_precision,
            "initial_precision": self.initial_precision,
            "dataset_size": self.dataset_size or self.data_size or _FIRST_AUTHORS_N,
            "num_mc_samples": self.num_mc_samples,
            "update": self.update,
            "antithetic": self.antithetic,
        }


OPTION_NAMES = tuple(field.name for field in fields(SearchOptions))


def split_options(given: Mapping[str, Any], *, known: Collection[str]) -> tuple[SearchOptions, dict[str, Any]]:
    """Return our options, and the rest for NASLib, whose config holds the options of all its optimizers.

    Args:
        given: `config.search`, or keyword arguments.
        known: names that NASLib itself uses.

    Raises:
        OptionError: an option is refused, or one that nobody knows looks like one of ours, misspelled.
    """
    for name in given:
        if name not in OPTION_NAMES and name not in known:
            near = difflib.get_close_matches(str(name), OPTION_NAMES, n=1, cutoff=0.8)
            if near:
                raise OptionError(f"BaLeNASOptimizer has no option {name!r}; did you mean {near[0]!r}?")
    options = SearchOptions(**{name: value for name, value in given.items() if name in OPTION_NAMES})
    return options, {name: value for name, value in given.items() if name not in OPTION_NAMES}

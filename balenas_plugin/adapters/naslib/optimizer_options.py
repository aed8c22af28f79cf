"""The options of our optimizers, read from NASLib's `config.search` and validated once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from balenas_plugin.distributions import ChosenDistribution, Distribution, options_of
from balenas_plugin.errors import OptionError
from balenas_plugin.mixed_ops.drawn_path import OTHERS
from balenas_plugin.presets import Preset
from balenas_plugin.search import Order, Search
from balenas_plugin.search.algorithm import WEIGHT_STEPS
from balenas_plugin.selection import ProxySelection
from balenas_plugin.validation import require_flag, require_positive, require_whole, require_word

_NASLIB_NAMES = {
    "arc_learning_rate": "arch_learning_rate",
    "lr": "arch_learning_rate",
    "weight_decay": "arch_weight_decay",
    "gradient_clip_val": "grad_clip",
}
"""Options of presets and distributions for which NASLib has another name."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search, whatever distribution it learns; where NASLib's config has a name for one, that is its name.

    See `DistributionOptimizer`.

    Raises:
        OptionError: an option has a wrong type or is out of range, or two contradict each other.
    """

    first: str = "architecture"
    architecture_every: int = 1
    levels: int = 2
    order: str | None = None
    unrolled: bool = False
    finite_difference: str = "central"
    weight_step_alpha: str = "mean"
    warmup_epochs: int = 0
    clip_with: str = "weights"
    others: str = "scalar"
    arch_learning_rate: float = 3e-4
    data_size: float | None = None
    epochs: int | None = None
    selection: str | ProxySelection | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        require_flag("unrolled", self.unrolled)
        order = ("second" if self.unrolled else "first") if self.order is None else self.order
        if self.unrolled and order == "first":
            raise OptionError("unrolled: true means order: second, but order is first; leave one of them out")
        object.__setattr__(self, "order", order)
        require_word("weight_step_alpha", self.weight_step_alpha, WEIGHT_STEPS)
        require_word("others", self.others, OTHERS)
        self.update_order()
        if self.data_size is not None:
            require_positive("data_size", self.data_size)
        if self.epochs is not None:
            require_whole("epochs", self.epochs, least=1)
        require_positive("arch_learning_rate", self.arch_learning_rate)
        given = dict(self.selection) if isinstance(self.selection, Mapping) else self.selection
        selection = ProxySelection.of(given)
        if selection is not None and selection.needs_supernet:
            raise OptionError(
                "selection: supernet_accuracy is for searches in NNI; NASLib does not hand its data to an optimizer. "
                'Use a zero-cost proxy, e.g. selection="synflow"'
            )
        object.__setattr__(self, "selection", selection)

    def update_order(self) -> Order:
        """Return which level is updated when, for Algorithm 1."""
        return Order(
            first=self.first,
            architecture_every=self.architecture_every,
            levels=self.levels,
            order=str(self.order),
            finite_difference=self.finite_difference,
            weight_step=self.weight_step_alpha,
            warmup_epochs=self.warmup_epochs,
            clip_with=self.clip_with,
        )


SEARCH_OPTIONS = tuple(field.name for field in fields(SearchOptions))


def distribution_options(kind: type[Distribution]) -> dict[str, str]:
    """Return NASLib's name -> our name of every option of a distribution."""
    return {_NASLIB_NAMES.get(name, name): name for name in options_of(kind)}


def read_options(
    given: Mapping[str, Any], *, preset: Preset, kind: type[Distribution], known: Collection[str]
) -> tuple[SearchOptions, ChosenDistribution, dict[str, Any]]:
    """Return our options, the distribution, and the rest for NASLib, whose config holds options of all its optimizers.

    Args:
        given: `config.search`, or keyword arguments.
        preset: the method; its options hold where nothing else is given.
        kind: what it learns.
        known: names that NASLib itself uses.

    Raises:
        OptionError: an option is refused, or one that nobody knows looks like one of ours, misspelled.
    """
    learned = distribution_options(kind)
    ours = (*SEARCH_OPTIONS, *learned)
    for name in given:
        if name not in ours and name not in known:
            near = difflib.get_close_matches(str(name), ours, n=1, cutoff=0.8)
            if near:
                raise OptionError(f"{preset.name} has no option {name!r}; did you mean {near[0]!r}?")
    options = {_NASLIB_NAMES.get(name, name): value for name, value in preset.options.items()}
    for name in options:
        if name not in ours and name not in _NASLIB_NAMES.values():
            raise OptionError(f"{preset.name} has {name}, which searches in NASLib do not have: search with it in NNI")
    options |= given
    search = SearchOptions(**{name: value for name, value in options.items() if name in SEARCH_OPTIONS})
    chosen = ChosenDistribution(kind, {own: options[name] for name, own in learned.items() if name in options})
    Search(chosen({"": torch.zeros(2)}, seed=0), search.update_order())  # refuses parts that do not go together
    return search, chosen, {name: value for name, value in options.items() if name not in SEARCH_OPTIONS}

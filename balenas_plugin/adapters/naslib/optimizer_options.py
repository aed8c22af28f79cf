"""The options of our optimizers, read from NASLib's `config.search` and validated once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from balenas_plugin.distributions import ChosenDistribution, Distribution, distribution_options, get_distribution
from balenas_plugin.errors import OptionError
from balenas_plugin.options import Positive, PositiveInt, declared_options
from balenas_plugin.perturbations import PerturbationOption, perturbation_of
from balenas_plugin.presets import Preset, get_preset, list_presets
from balenas_plugin.search import Order, Search
from balenas_plugin.search.order import GradientOrder, WeightStep
from balenas_plugin.selection.proxy_selection import ProxySelection, Selection

_NASLIB_NAMES = {
    "arc_learning_rate": "arch_learning_rate",
    "lr": "arch_learning_rate",
    "weight_decay": "arch_weight_decay",
    "gradient_clip_val": "grad_clip",
}
"""Options of presets and distributions for which NASLib has another name."""

_IN_NNI = {
    "mixed_op": "NASLib's graphs build the operations of their edges in full",
    "schedule": "NASLib's trainer has one network from its first epoch to its last",
    "cost": "costs are measured on NNI's spaces",
    "penalty": "NNI's profilers know NNI's spaces",
    "mc_batches": "every draw sees the whole batch",
}
"""Options of searches in NNI that those in NASLib do not have -> why."""


@declared_options(called="the search")
@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search in NASLib besides those of `Order`; where NASLib's config has a name for one, it has that.

    Args:
        order: "first", or "second" for the gradient through one unrolled weight step (Eq. 1).
        unrolled: NASLib's name for the second order.
        weight_step_alpha: train the weights at the "mean" of the distribution, at a "sample", or at "uniform" paths.
        perturbation: of the mixing weights in the weight step: "sdarts-rs", "sdarts-adv", or {"name": ..., options}
            (`balenas_plugin.perturbations`).
        arch_learning_rate: of the distribution's optimizer.
        data_size: N for distributions that ask for it, if not given otherwise.
        epochs: of the search, for what changes with them, such as GDAS's temperature and SDARTS's radius.
        selection: how `get_final_architecture` selects: "synflow" for the paper's BaLeNAS-TF, a `ProxySelection` (or a
            dict of its options); None for the largest parameter of every edge, as NASLib discretises.

    Raises:
        OptionError: an option has a wrong type or is out of range, or two contradict each other.
    """

    order: GradientOrder | None = None
    unrolled: bool = False
    weight_step_alpha: WeightStep = "mean"
    perturbation: PerturbationOption = None
    arch_learning_rate: Positive = 3e-4
    data_size: Positive | None = None
    epochs: PositiveInt | None = None
    selection: Selection = None

    def __post_init__(self) -> None:
        if self.unrolled and self.order == "first":
            raise OptionError("unrolled: true means order: second, but order is first; leave one of them out")
        if self.selection is not None and self.selection.needs_supernet:
            raise OptionError(
                "selection: supernet_accuracy is for searches in NNI; NASLib does not hand its data to an optimizer. "
                'Use a zero-cost proxy, e.g. selection="synflow"'
            )


_OWN = [field.name for field in fields(SearchOptions)]
_OF_ORDER = [field.name for field in fields(Order) if field.name not in ("order", "weight_step")]
SEARCH_OPTIONS = (*_OWN, *_OF_ORDER)
"""Options of a search, whatever distribution it learns."""


def naslib_names(kind: type[Distribution]) -> dict[str, str]:
    """Return NASLib's name -> our name of every option of a distribution."""
    return {_NASLIB_NAMES.get(field.name, field.name): field.name for field in fields(distribution_options(kind))}


def usable_presets() -> list[str]:
    """Return the names of the presets all of whose options NASLib has."""
    own = {*SEARCH_OPTIONS, *_NASLIB_NAMES.values(), *_NASLIB_NAMES}
    presets = map(get_preset, list_presets())
    return [p.name for p in presets if p.options.keys() <= own | {*naslib_names(get_distribution(p.distribution))}]


def read_options(
    given: Mapping[str, Any], *, preset: Preset, kind: type[Distribution], known: Collection[str]
) -> tuple[SearchOptions, Order, ChosenDistribution, dict[str, Any]]:
    """Return our options, the order of updates, the distribution, and what NASLib takes of a config for all optimizers.

    Args:
        given: `config.search`, or keyword arguments.
        preset: the method; its options hold where nothing else is given.
        kind: what it learns.
        known: names that NASLib itself uses.

    Raises:
        OptionError: an option is refused, or one that nobody knows looks like one of ours, misspelled.
    """
    learned = naslib_names(kind)
    ours = (*SEARCH_OPTIONS, *learned)
    for name in given:
        if name not in ours and name not in known:
            near = difflib.get_close_matches(str(name), ours, n=1, cutoff=0.8)
            if near:
                raise OptionError(f"{preset.name} has no option {name!r}; did you mean {near[0]!r}?")
    merged = {_NASLIB_NAMES.get(name, name): value for name, value in preset.options.items()}
    for name, value in {**merged, **given}.items():
        unknown = name in merged and name not in ours and name not in _NASLIB_NAMES.values()
        if unknown or (value is not None and name in _IN_NNI):
            why = f" ({_IN_NNI[name]})" if name in _IN_NNI else ""
            raise OptionError(
                f"{preset.name} has {name}, which searches in NASLib do not have{why}: search with it in NNI"
            )
    selection = ProxySelection.of(merged.get("selection"))
    if selection is not None and selection.needs_supernet:
        del merged["selection"]  # a preset's own, which NASLib cannot serve: its final architecture is the argmax
    merged |= given
    search = SearchOptions(**{name: merged[name] for name in _OWN if name in merged})
    order = Order(
        order=search.order or ("second" if search.unrolled else "first"),
        weight_step=search.weight_step_alpha,
        **{name: merged[name] for name in _OF_ORDER if name in merged},
    )
    chosen = ChosenDistribution(kind, {own: merged[name] for name, own in learned.items() if name in merged})
    perturbation = perturbation_of(search.perturbation, seed=0)
    Search(chosen({"": torch.zeros(2)}, seed=0), order, perturbation)  # refuses parts that do not go together
    return search, order, chosen, {name: value for name, value in merged.items() if name not in SEARCH_OPTIONS}

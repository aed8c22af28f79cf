"""The options of a selection from a posterior, and selections by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from balenas_plugin.costs.table import Measure
from balenas_plugin.errors import OptionError
from balenas_plugin.options import OneOf, Positive, Seed, Workers, checked, declared_options
from balenas_plugin.proxies import get_proxy, list_proxies
from balenas_plugin.selection.supernet_accuracy import SUPERNET_ACCURACY

_Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of whatever is counted in a selection: more take days."""

PROBABILITY = "probability"
"""Its name among those of the proxies."""

DARTS_PT = "darts-pt"

_Proxy = Annotated[str, OneOf(lambda: (*list_proxies(), SUPERNET_ACCURACY, PROBABILITY))]


@declared_options(called="selection")
@dataclass(frozen=True, kw_only=True)
class ProxySelection:
    """How to select architectures from a posterior; the defaults are the paper's BaLeNAS-TF (Table 4).

    Args:
        n: draws, architectures enumerated, or orders of choices that DARTS-PT goes through.
        proxy: name of a proxy, "probability" of the posterior, or "supernet_accuracy" for the accuracy of the
            supernet's weights on images of the architecture half (after a search in NNI only); several are averaged by
            rank.
        candidates: "sample" draws and discretises (the paper), "enumerate" takes the n most probable ones, "darts-pt"
            decides the supernet's choices one after the other, by the accuracy that each candidate's removal costs.
        include_probability: average in the rank by the posterior's probability too.
        seeds: initialisations scored per architecture; values are averaged.
        seed: of the draws, the initialisations and the supernet's images.
        images: of the architecture half that the supernet's accuracy is counted on.
        own_images: other images for each architecture; by default all are scored on the same.
        batch_statistics: batch-norm by the statistics of each batch of these images.
        batch_norm_batches: else of the weight half, from which its statistics are estimated for each architecture.
        fine_tuning: batches of the weight half that DARTS-PT trains a copy of the supernet on after each decision.
        max_params: leave out networks with more parameters. Limits leave `n` as it is: candidates are looked for until
            so many keep to them.
        max_flops: leave out networks with more multiply-adds per image, counted as 2 floating-point operations each.
        max_latency: leave out networks that take more milliseconds for an image, by PyTorch with one thread of this
            machine's CPU; `balenas export` adds the latencies of operations up where that can be, by onnxruntime where
            that is installed.
        workers: processes that score in parallel.

    Raises:
        OptionError: an option has a wrong type or is out of range.
    """

    n: _Count = 100
    proxy: _Proxy | Annotated[Sequence[_Proxy], Field(min_length=1)] = "synflow"
    candidates: Literal["sample", "enumerate", "darts-pt"] = "sample"
    include_probability: bool = False
    seeds: _Count = 1
    seed: Seed = 0
    images: _Count = 1000
    own_images: bool = False
    batch_statistics: bool = False
    batch_norm_batches: _Count = 8
    fine_tuning: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    max_params: Positive | None = None
    max_flops: Positive | None = None
    max_latency: Positive | None = None
    workers: Workers = 1

    def __post_init__(self) -> None:
        for name in self.zero_cost_proxies:
            get_proxy(name)  # the package that offers it may be broken
        if self.batch_statistics and self.images == 1:
            raise OptionError("batch_statistics needs at least 2 images: a single one has none")
        if self.fine_tuning and self.candidates != DARTS_PT:
            raise OptionError(f'fine_tuning is a part of DARTS-PT: it needs candidates: "{DARTS_PT}"')

    @property
    def proxies(self) -> tuple[str, ...]:
        """All that is ranked by, by name, but for the probability."""
        return (self.proxy,) if isinstance(self.proxy, str) else tuple(self.proxy)

    @property
    def zero_cost_proxies(self) -> tuple[str, ...]:
        """Those that look at fresh networks."""
        return tuple(name for name in self.proxies if name not in (SUPERNET_ACCURACY, PROBABILITY))

    @property
    def limits(self) -> dict[Measure, float]:
        """Measure -> the most that it may be."""
        given: dict[Measure, float | None] = {
            "params": self.max_params,
            "flops": self.max_flops,
            "latency": self.max_latency,
        }
        return {measure: limit for measure, limit in given.items() if limit is not None}

    @property
    def needs_supernet(self) -> bool:
        """Whether the weights of the search are asked for."""
        return SUPERNET_ACCURACY in self.proxies or self.candidates == DARTS_PT

    @property
    def chosen_by(self) -> str:
        """What decides, for people."""
        return ", ".join([*([DARTS_PT] if self.candidates == DARTS_PT else []), *self.proxies])

    @classmethod
    def of(cls, given: object) -> ProxySelection | None:
        """Return a selection as it is, one by its name or made of a dict of options, or None for None.

        Raises:
            OptionError: a name or an option is unknown or refused.
        """
        selection: ProxySelection | None = checked("selection", given, Selection)
        return selection


_ONE_BATCH = {"proxy": SUPERNET_ACCURACY, "images": 512, "own_images": True, "batch_statistics": True}

NAMED_SELECTIONS: Mapping[str, Mapping[str, Any]] = {
    "synflow": {"proxy": "synflow"},
    "synflow-enumerated": {"proxy": "synflow", "n": 1000, "candidates": "enumerate"},
    "supernet": {"proxy": SUPERNET_ACCURACY},
    "synflow+supernet": {"proxy": ("synflow", SUPERNET_ACCURACY)},
    "most-probable": {"proxy": PROBABILITY, "candidates": "enumerate"},
    "one-batch": _ONE_BATCH,
    "one-batch-enumerated": {**_ONE_BATCH, "candidates": "enumerate"},
    DARTS_PT: {"proxy": SUPERNET_ACCURACY, "candidates": DARTS_PT, "n": 1, "batch_statistics": True},
}
"""Selections by name: their options where they differ from the defaults. "synflow" is the paper's BaLeNAS-TF;
"...-enumerated" ranks the most probable architectures in the place of draws."""


def named_selection(name: str) -> ProxySelection:
    """Return one of `NAMED_SELECTIONS`.

    Raises:
        OptionError: there is none of that name.
    """
    checked("selection", name, _NAME)
    return ProxySelection(**NAMED_SELECTIONS[name])


def _by_name(given: Any) -> Any:
    return NAMED_SELECTIONS.get(given, given) if isinstance(given, str) else given


_NAME = Annotated[str, OneOf(lambda: NAMED_SELECTIONS)]

Selection = Annotated[
    ProxySelection | None, BeforeValidator(_by_name, json_schema_input_type=_NAME | ProxySelection | None)
]
"""An option that takes a selection, its options, or its name."""

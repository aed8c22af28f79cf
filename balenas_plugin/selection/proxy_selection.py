"""The options of a selection from a posterior, and selections by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from balenas_plugin.errors import OptionError
from balenas_plugin.proxies import get_proxy, list_proxies
from balenas_plugin.selection.supernet_accuracy import SUPERNET_ACCURACY
from balenas_plugin.validation import (
    MAX_WORKERS,
    require_flag,
    require_keys,
    require_positive,
    require_seed,
    require_whole,
    require_word,
)

CANDIDATES = ("sample", "enumerate")
_MOST = 1_000_000
"""Of whatever is counted in a selection: more take days."""


@dataclass(frozen=True, kw_only=True)
class ProxySelection:
    """How to select architectures from a posterior; the defaults are the paper's BaLeNAS-TF (Table 4).

    Args:
        n: draws, or architectures enumerated.
        proxy: name of a proxy, or "supernet_accuracy" for the accuracy of the supernet's weights on images of the
            architecture half (after a search in NNI only); several are averaged by rank.
        candidates: "sample" draws and discretises (the paper), "enumerate" takes the n most probable ones.
        include_probability: average in the rank by the posterior's probability too.
        seeds: initialisations scored per architecture; values are averaged.
        seed: of the draws, the initialisations and the supernet's images.
        images: of the architecture half that the supernet's accuracy is counted on.
        batch_norm_batches: of the weight half, from which batch-norm's statistics are estimated for each architecture.
        max_params: leave out networks with more parameters.
        max_flops: leave out networks with more multiply-adds per image, counted as 2 floating-point operations each.
        workers: processes that score in parallel.

    Raises:
        OptionError: an option has a wrong type or is out of range.
    """

    n: int = 100
    proxy: str | Sequence[str] = "synflow"
    candidates: str = "sample"
    include_probability: bool = False
    seeds: int = 1
    seed: int = 0
    images: int = 1000
    batch_norm_batches: int = 8
    max_params: float | None = None
    max_flops: float | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("n", "seeds", "images", "batch_norm_batches"):
            require_whole(name, getattr(self, name), least=1, most=_MOST)
        require_whole("workers", self.workers, least=1, most=MAX_WORKERS)
        require_seed("seed", self.seed)
        require_word("candidates", self.candidates, CANDIDATES)
        require_flag("include_probability", self.include_probability)
        for name in ("max_params", "max_flops"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        if not isinstance(self.proxy, Sequence) or not self.proxies:
            raise OptionError(f"proxy must be a name, or a list of at least one name, got {self.proxy!r}")
        known = (*list_proxies(), SUPERNET_ACCURACY)
        for name in self.proxies:
            require_word("proxy", name, known)
        for name in self.zero_cost_proxies:
            get_proxy(name)  # the package that offers it may be broken

    @property
    def proxies(self) -> tuple[str, ...]:
        """All that is ranked by, by name, but for the probability."""
        return (self.proxy,) if isinstance(self.proxy, str) else tuple(self.proxy)

    @property
    def zero_cost_proxies(self) -> tuple[str, ...]:
        """Those that look at fresh networks."""
        return tuple(name for name in self.proxies if name != SUPERNET_ACCURACY)

    @property
    def looks_at_fresh_networks(self) -> bool:
        """Whether freshly initialised networks are asked for: by a zero-cost proxy, or by a limit of their size."""
        return bool(self.zero_cost_proxies) or self.max_params is not None or self.max_flops is not None

    @property
    def needs_supernet(self) -> bool:
        """Whether the weights of the search are asked for."""
        return SUPERNET_ACCURACY in self.proxies

    @classmethod
    def of(cls, given: object) -> ProxySelection | None:
        """Return a selection as it is, one by its name or made of a dict of options, or None for None.

        Raises:
            OptionError: a name or an option is unknown or refused.
        """
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, str):
            return named_selection(given)
        if not isinstance(given, dict):
            raise OptionError(
                f"selection must be one of {', '.join(NAMED_SELECTIONS)}, a ProxySelection, a dict of its options or "
                f"None, got {given!r}"
            )
        require_keys("selection", given, [field.name for field in fields(cls)])
        return cls(**given)


NAMED_SELECTIONS: Mapping[str, Mapping[str, Any]] = {
    "synflow": {"proxy": "synflow"},
    "synflow-enumerated": {"proxy": "synflow", "n": 1000, "candidates": "enumerate"},
    "supernet": {"proxy": SUPERNET_ACCURACY},
    "synflow+supernet": {"proxy": ("synflow", SUPERNET_ACCURACY)},
}
"""Selections by name: their options where they differ from the defaults. "synflow" is the paper's BaLeNAS-TF;
"synflow-enumerated" ranks the most probable architectures in the place of draws."""


def named_selection(name: str) -> ProxySelection:
    """Return one of `NAMED_SELECTIONS`.

    Raises:
        OptionError: there is none of that name.
    """
    require_word("selection", name, tuple(NAMED_SELECTIONS))
    return ProxySelection(**NAMED_SELECTIONS[name])

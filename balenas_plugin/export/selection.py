"""The options of a selection from a posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from balenas_plugin.errors import OptionError
from balenas_plugin.proxies import get_proxy
from balenas_plugin.validation import require_keys, require_positive, require_whole, require_word

CANDIDATES = ("sample", "enumerate")


@dataclass(frozen=True, kw_only=True)
class ProxySelection:
    """How to select architectures from a posterior; the defaults are the paper's BaLeNAS-TF (Table 4).

    Args:
        n: draws, or architectures enumerated.
        proxy: name of a proxy, or several whose ranks are averaged.
        candidates: "sample" draws and discretises (the paper), "enumerate" takes the n most probable ones.
        include_probability: average in the rank by the posterior's probability too.
        seeds: initialisations scored per architecture; values are averaged.
        seed: of the draws and the initialisations.
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
    max_params: float | None = None
    max_flops: float | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("seeds", 1), ("seed", 0), ("workers", 1)):
            require_whole(name, getattr(self, name), least=least)
        require_word("candidates", self.candidates, CANDIDATES)
        for name in ("max_params", "max_flops"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        for proxy in self.proxies:
            get_proxy(proxy)

    @property
    def proxies(self) -> tuple[str, ...]:
        """The proxies by name."""
        return (self.proxy,) if isinstance(self.proxy, str) else tuple(self.proxy)

    @classmethod
    def of(cls, given: object) -> ProxySelection | None:
        """Return a selection as it is, one made of a dict of options, or None for None.

        Raises:
            OptionError: an option is unknown or refused.
        """
        if given is None or isinstance(given, cls):
            return given
        if not isinstance(given, dict):
            raise OptionError(f"selection must be a ProxySelection, a dict of its options or None, got {given!r}")
        require_keys("selection", given, [field.name for field in fields(cls)])
        return cls(**given)

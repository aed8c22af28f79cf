"""How large the searches of a reproduction are: the files in configs/reproduce/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from balenas_plugin.config import SearchConfig, read_yaml
from balenas_plugin.errors import OptionError, nearest
from balenas_plugin.files import CONFIGS
from balenas_plugin.machine import room_for_searches
from balenas_plugin.options import PositiveInt, declared_options, read_options
from balenas_plugin.reproduce.retraining.stages import Retraining

SCALES = ("small", "small-lossless", "paper")


@declared_options("proxy_networks")
@dataclass(frozen=True, kw_only=True)
class ProxyNetworks:
    """The networks that zero-cost proxies score: those that the benchmark trained, not those of the search.

    Args:
        channels: C of the first stage.
        cells_per_stage: N.
        image_size: side of their images in pixels.
        batch_size: images in the batch that proxies look at.

    Raises:
        OptionError: one of them is no whole number of at least 1.
    """

    channels: PositiveInt = 16
    cells_per_stage: PositiveInt = 5
    image_size: PositiveInt = 32
    batch_size: PositiveInt = 64

    @property
    def sizes(self) -> dict[str, int]:
        """What a space takes."""
        return {name: size for name, size in asdict(self).items() if name != "batch_size"}


@declared_options()
@dataclass(frozen=True, kw_only=True)
class Scale:
    """The searches of one scale.

    Args:
        name: of the scale.
        common: config of every search.
        searches: name of a search -> what is added to the common config.
        proxy_networks: what proxies score.
        trials: name of a search -> settings to choose from, each added to the search.
        retraining: how what is found in the DARTS space is trained, for table3; None: it is not.
    """

    name: str
    common: Mapping[str, Any] = field(default_factory=dict)
    searches: Mapping[str, Mapping[str, Any]]
    proxy_networks: ProxyNetworks = field(default_factory=ProxyNetworks)
    trials: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    retraining: Retraining | None = None

    def config(self, search: str, seed: int) -> SearchConfig:
        """Return the config of one search.

        Raises:
            OptionError: the scale has no such search, or its config is invalid.
        """
        method, trial, number = search.partition("-trial-")
        if method not in self.searches:
            raise OptionError(f"scale {self.name} has no search {method!r}{nearest(method, self.searches)}")
        document = merged(self.common, self.searches[method])
        if trial:
            document = merged(document, self.trials[method][int(number) - 1])
        return SearchConfig.from_dict({**document, "name": search, "seed": seed})

    def tried(self, method: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the searches among which a method's settings are chosen: (name, what is added to the method's search).

        Settings that the method's own search has already are that search, which is not repeated.
        """
        own = merged(self.common, self.searches[method])
        return [
            (method if merged(own, settings) == own else f"{method}-trial-{k}", settings)
            for k, settings in enumerate(self.trials[method], start=1)
        ]

    @property
    def jobs(self) -> int:
        """Searches to run at a time: one, but on a CPU as many as it has room for if the scale says how large each is.

        Raises:
            OptionError: see `config`.
        """
        threads = self.config(next(iter(self.searches)), seed=0).threads
        return 1 if threads is None or torch.accelerator.is_available() else room_for_searches(threads)


def load_scale(name: str) -> Scale:
    """Read a scale by its name, or from a file of the user's own.

    Args:
        name: one of `SCALES`, or the path of a YAML file of their form.

    Raises:
        OptionError: there is no such scale, or its file is malformed.
    """
    path = CONFIGS / "reproduce" / f"{name}.yml" if name in SCALES else Path(name)
    if name not in SCALES and path.suffix not in (".yml", ".yaml"):
        raise OptionError(
            f"--scale must be {' or '.join(SCALES)}, or a .yml file like theirs, got {name!r}{nearest(name, SCALES)}"
        )
    document = read_yaml(path, [*(field.name for field in fields(Scale)), "base"])
    if "base" in document:
        document = merged(read_yaml(CONFIGS / "reproduce" / f"{document.pop('base')}.yml"), document)
    if not document.get("searches", True):
        raise OptionError(f"{path} has no searches: name at least one, e.g. `searches: {{darts: {{strategy: DARTS}}}}`")
    return read_options(Scale, {"name": path.stem, **document}, called=str(path))


def merged(base: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `added` on top, mapping by mapping; one of another `name` replaces it, as its options do."""
    result = dict(base)
    for key, value in added.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            name = old.get("name", value.get("name"))
            value = merged(old, value) if value.get("name", name) == name else value
        result[key] = value
    return result

"""How large the searches of a reproduction are: the files in configs/reproduce/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from balenas_plugin.config import SearchConfig, read_yaml
from balenas_plugin.errors import OptionError, nearest
from balenas_plugin.files import CONFIGS
from balenas_plugin.machine import room_for_searches
from balenas_plugin.validation import require_keys, require_whole

SCALES = ("small", "paper")
_KEYS = ("common", "searches", "proxy_networks")


@dataclass(frozen=True)
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

    channels: int = 16
    cells_per_stage: int = 5
    image_size: int = 32
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require_whole(f"proxy_networks.{name}", value, least=1)


@dataclass(frozen=True)
class Scale:
    """The searches of one scale.

    Args:
        name: of the scale.
        common: config of every search.
        searches: name of a search -> what is added to the common config.
        proxy_networks: what proxies score.
    """

    name: str
    common: Mapping[str, Any]
    searches: Mapping[str, Mapping[str, Any]]
    proxy_networks: ProxyNetworks

    def config(self, search: str, seed: int) -> SearchConfig:
        """Return the config of one search.

        Raises:
            OptionError: the scale has no such search, or its config is invalid.
        """
        if search not in self.searches:
            raise OptionError(f"scale {self.name} has no search {search!r}{nearest(search, self.searches)}")
        document = merged(self.common, self.searches[search])
        return SearchConfig.from_dict({**document, "name": search, "seed": seed})

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
    document = read_yaml(path, _KEYS)
    require_keys(str(path), document, _KEYS)
    common, searches, sizes = (_mapping(path, document, key) for key in _KEYS)
    if not searches:
        raise OptionError(f"{path} has no searches: name at least one, e.g. `searches: {{darts: {{strategy: DARTS}}}}`")
    for name in searches:
        _mapping(path, searches, name)
    require_keys(f"{path}: proxy_networks", sizes, ProxyNetworks.__dataclass_fields__)
    return Scale(path.stem, common, searches, ProxyNetworks(**sizes))


def _mapping(path: Path, document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key, {})
    if not isinstance(found, Mapping):
        raise OptionError(f"{path}: {key} must be a mapping of options, got {found!r}")
    return found


def merged(base: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `added` on top, mapping by mapping."""
    result = dict(base)
    for key, value in added.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result

"""What a preset is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A method of the literature as parts that this package combines.

    Args:
        name: of the strategy that users call.
        distribution: name of what is learned over the mixing weights.
        options: of the search and of the distribution, where they differ from the defaults; users may change them.
        summary: one sentence.
        source: author, year, title.
        notes: how it departs from its paper or reference code, if it does.
    """

    name: str
    distribution: str
    options: Mapping[str, Any] = field(default_factory=dict)
    summary: str
    source: str
    notes: str = ""

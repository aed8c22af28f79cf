"""The genotypes that papers have published, by the names of their code; what their tables trained.

Sources: quark0/darts, chenxin061/pdarts, yuhuixu1993/PC-DARTS, xiangning-chen/SmoothDARTS and DrNAS, D-X-Y/GDAS, each
in its `genotypes.py`. Names with S1 to S4 are of searches in these spaces on CIFAR-10.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from balenas_plugin.errors import SpaceError, nearest, same_word

from .edges import SHORT

_CELLS = {  # operation and state, two pairs a node; behind an arrow, the states that are joined where not all are
    "NASNet": (
        "sep5 1, sep3 0, sep5 0, sep3 0, avg 1, skip 0, avg 0, avg 0, sep3 1, skip 1",
        "sep5 1, sep7 0, max 1, sep7 0, avg 1, sep5 0, skip 3, avg 2, sep3 2, max 1 -> 4 5 6",
    ),
    "AmoebaNet": (
        "avg 0, max 1, sep3 0, sep5 2, sep3 0, avg 3, sep3 1, skip 1, skip 0, avg 1 -> 4 5 6",
        "avg 0, sep3 1, max 0, sep7 2, sep7 0, avg 1, max 0, max 1, conv7 0, sep3 5 -> 3 4 6",
    ),
    "DARTS_V1": (
        "sep3 1, sep3 0, skip 0, sep3 1, skip 0, sep3 1, sep3 0, skip 2",
        "max 0, max 1, skip 2, max 0, max 0, skip 2, skip 2, avg 0",
    ),
    "DARTS_V2": (
        "sep3 0, sep3 1, sep3 0, sep3 1, sep3 1, skip 0, skip 0, dil3 2",
        "max 0, max 1, skip 2, max 1, max 0, skip 2, skip 2, max 1",
    ),
    "GDAS_V1": (
        "skip 0, skip 1, skip 0, sep5 2, sep3 3, skip 0, sep5 4, sep3 3",
        "sep5 0, sep3 1, sep5 2, sep5 1, dil5 2, sep3 1, sep5 0, sep5 1",
    ),
    "PDARTS": (
        "skip 0, dil3 1, skip 0, sep3 1, sep3 1, sep3 3, sep3 0, dil5 4",
        "avg 0, sep5 1, sep3 0, dil5 2, max 0, dil3 1, dil3 1, dil5 3",
    ),
    "PC_DARTS_cifar": (
        "sep3 1, skip 0, sep3 0, dil3 1, sep5 0, sep3 1, avg 0, dil3 1",
        "sep5 1, max 0, sep5 1, sep5 2, sep3 0, sep3 3, sep3 1, sep3 2",
    ),
    "PC_DARTS_image": (
        "skip 1, sep3 0, sep3 0, skip 1, sep3 1, sep3 3, sep3 1, dil5 4",
        "sep3 0, skip 1, dil5 2, max 1, sep3 2, sep3 1, sep5 0, sep3 3",
    ),
    "SDARTS_RS": (
        "sep3 1, sep3 0, sep5 1, skip 0, sep3 3, skip 1, sep3 1, dil3 2",
        "max 0, sep3 1, skip 2, max 0, dil5 3, max 0, sep3 2, sep5 3",
    ),
    "SDARTS_ADV": (
        "sep3 0, sep3 1, sep3 1, skip 0, sep5 0, dil3 3, dil3 4, skip 0",
        "max 0, sep5 1, skip 2, max 0, skip 3, skip 2, skip 2, sep5 4",
    ),
    "DrNAS_cifar10": (
        "sep3 0, sep5 1, sep3 1, sep3 2, skip 0, sep3 1, sep3 2, dil5 3",
        "max 0, sep5 1, dil5 2, sep5 1, sep5 1, dil5 3, skip 4, sep5 1",
    ),
    "DrNAS_imagenet": (
        "sep3 1, sep3 0, sep3 0, sep3 1, sep3 0, dil3 3, skip 0, sep3 1",
        "max 0, sep3 1, sep3 0, skip 2, sep3 0, sep3 2, sep3 3, sep3 1",
    ),
    "SDARTS_RS_S1_c10": (
        "dil5 1, dil3 0, sep3 1, skip 2, dil3 3, sep3 2, sep3 0, dil3 2",
        "max 0, dil3 1, dil5 2, max 1, dil5 3, sep3 1, dil5 2, dil5 3",
    ),
    "SDARTS_ADV_S1_c10": (
        "dil5 1, dil3 0, sep3 1, skip 2, sep3 2, dil3 3, sep3 0, dil3 2",
        "max 0, dil3 1, dil5 2, max 0, dil5 3, dil3 2, dil5 4, dil5 2",
    ),
    "PCDARTS_S1_c10": (
        "dil5 1, dil3 0, dil5 0, sep3 1, skip 2, max 0, skip 2, skip 0",
        "max 0, max 1, max 1, max 0, sep3 1, max 0, dil5 2, max 0",
    ),
    "SDARTS_RS_S2_c10": (
        "sep3 0, sep3 1, sep3 2, skip 1, sep3 3, skip 0, sep3 1, skip 2",
        "sep3 0, sep3 1, sep3 1, sep3 0, sep3 2, sep3 1, sep3 2, sep3 3",
    ),
    "SDARTS_ADV_S2_c10": (
        "sep3 1, skip 0, sep3 2, sep3 0, sep3 3, sep3 2, sep3 4, sep3 1",
        "skip 0, skip 1, sep3 0, sep3 2, sep3 3, sep3 0, sep3 4, sep3 3",
    ),
    "PCDARTS_S2_c10": (
        "skip 1, sep3 0, skip 0, skip 2, skip 3, sep3 0, skip 3, skip 4",
        "sep3 0, sep3 1, sep3 1, sep3 2, sep3 2, sep3 3, sep3 4, sep3 2",
    ),
    "SDARTS_RS_S3_c10": (
        "sep3 1, sep3 0, sep3 1, sep3 0, sep3 1, sep3 2, sep3 4, skip 0",
        "skip 0, sep3 1, sep3 2, sep3 0, sep3 2, sep3 3, sep3 0, sep3 4",
    ),
    "SDARTS_ADV_S3_c10": (
        "sep3 1, sep3 0, sep3 0, sep3 2, sep3 1, sep3 0, sep3 1, skip 0",
        "sep3 1, sep3 0, sep3 2, sep3 0, sep3 2, sep3 0, sep3 1, sep3 3",
    ),
    "PCDARTS_S3_c10": (
        "sep3 1, sep3 0, sep3 2, sep3 1, sep3 3, sep3 2, skip 4, sep3 2",
        "sep3 0, sep3 1, sep3 0, sep3 2, sep3 0, sep3 3, sep3 0, sep3 4",
    ),
    "SDARTS_RS_S4_c10": (
        "sep3 1, sep3 0, sep3 2, sep3 1, sep3 3, sep3 2, sep3 4, sep3 2",
        "sep3 0, sep3 1, sep3 0, sep3 2, sep3 0, sep3 3, sep3 0, sep3 4",
    ),
    "SDARTS_ADV_S4_c10": (
        "sep3 1, sep3 0, sep3 2, sep3 1, sep3 3, sep3 2, sep3 3, sep3 4",
        "sep3 1, sep3 0, sep3 2, sep3 1, sep3 2, sep3 3, sep3 3, sep3 4",
    ),
    "PCDARTS_S4_c10": (
        "sep3 0, sep3 1, sep3 0, sep3 1, sep3 0, sep3 1, sep3 0, noise 3",
        "sep3 0, sep3 1, sep3 1, sep3 2, sep3 3, sep3 1, sep3 2, sep3 0",
    ),
}
"""Name -> normal and reduction cell."""

_ALIASES = {"DARTS": "DARTS_V2", "PCDARTS": "PC_DARTS_cifar", "DrNAS": "DrNAS_cifar10", "GDAS": "GDAS_V1"}

PUBLISHED = tuple(_CELLS)
"""Names of the genotypes."""


def published_name(text: str, called: Mapping[str, str]) -> str | None:
    """Return the name of the genotype that a text names; None if it names none.

    Args:
        text: of whatever somebody has typed.
        called: what genotypes are called -> their names.

    Raises:
        SpaceError: it is a name, nearly one of these.
    """
    name = next((own for known, own in called.items() if same_word(known, text)), None)
    if name is None and re.fullmatch(r"[A-Za-z][\w-]{3,23}", text) and nearest(text, called) != ".":
        raise SpaceError(f"no published genotype is called {text!r}{nearest(text, called)}")
    return name


def pairs_and_joined(written: str) -> tuple[list[tuple[str, int]], list[int] | None]:
    """Return the pairs of a cell in a table of genotypes, and the states that it joins: None for all."""
    pairs, _, joined = written.partition(" -> ")
    words = [pair.split() for pair in pairs.split(", ")]
    return [(operation, int(state)) for operation, state in words], [int(state) for state in joined.split()] or None


def published_cells(text: str) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the parts (see `make_genotype`) of the genotype that a text names; None if it names none.

    Raises:
        SpaceError: it is a name, nearly one of these.
    """
    name = published_name(text, {**dict(zip(PUBLISHED, PUBLISHED, strict=True)), **_ALIASES})
    if name is None:
        return None
    parts: dict[str, Any] = {}
    for cell, written in zip(("normal", "reduce"), _CELLS[name], strict=True):
        pairs, parts[f"{cell}_concat"] = pairs_and_joined(written)
        parts[cell] = [(SHORT[operation], state) for operation, state in pairs]
    return name, parts

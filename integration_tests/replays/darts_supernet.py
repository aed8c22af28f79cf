"""The DARTS space's supernet and the genotypes of its alphas."""

from __future__ import annotations

from functools import partial

from replays.darts_spaces import replayed_counts, replayed_discretise, replayed_supernets

INPUTS: set[str] = set()
NAMES = {"darts": "darts-reference"}

SECTIONS = {
    "meta": partial(replayed_counts, names=NAMES),
    "supernet": partial(replayed_supernets, names=NAMES),
    "discretise": partial(replayed_discretise, names=NAMES),
}

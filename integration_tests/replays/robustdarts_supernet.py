"""The supernets of RobustDARTS's S1 to S3, and the genotypes of S1 to S4."""

from __future__ import annotations

from functools import partial

from replays.darts_spaces import replayed_counts, replayed_discretise, replayed_supernets

INPUTS: set[str] = set()
NAMES = {f"s{k}": f"darts-s{k}" for k in range(1, 5)}

SECTIONS = {
    "meta": partial(replayed_counts, names=NAMES),
    "supernet": partial(replayed_supernets, names=NAMES),
    "discretise": partial(replayed_discretise, names=NAMES),
}

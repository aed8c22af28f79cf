"""NAS-Bench-1Shot1: three one-shot spaces whose architectures NAS-Bench-101 has trained (Zela et al. 2020)."""

from __future__ import annotations

from .choice_blocks import BLOCKS, PARENTS, Blocks, Wiring
from .module_spec import CONV1X1, CONV3X3, MAXPOOL, ModuleSpec
from .nasbench101_network import NasBench101Network
from .one_shot_spaces import (
    HASH_NOTATION,
    NasBench1Shot1Space,
    NasBench1Shot1Space1,
    NasBench1Shot1Space2,
    NasBench1Shot1Space3,
)

__all__ = [
    "BLOCKS",
    "CONV1X1",
    "CONV3X3",
    "HASH_NOTATION",
    "MAXPOOL",
    "PARENTS",
    "SPACES",
    "Blocks",
    "ModuleSpec",
    "NasBench1Shot1Space",
    "NasBench101Network",
    "Wiring",
]

SPACE_1, SPACE_2, SPACE_3 = NasBench1Shot1Space1(), NasBench1Shot1Space2(), NasBench1Shot1Space3()

SPACES = {1: SPACE_1, 2: SPACE_2, 3: SPACE_3}
"""Number -> the space."""

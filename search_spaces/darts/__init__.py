"""The DARTS space by its own convention, and S1 to S5 that were made of it (Liu et al. 2019, Zela et al. 2020)."""

from __future__ import annotations

from .genotype import Genotype, from_nni, make_genotype, read_genotype, to_compact, to_config, to_nni
from .network import GenotypeNetwork, build_network
from .search_space import DartsSpace, S1Space, S2Space, S3Space, S4Space, S5Space

__all__ = [
    "DARTS",
    "S1",
    "S2",
    "S3",
    "S4",
    "S5",
    "DartsSpace",
    "Genotype",
    "GenotypeNetwork",
    "build_network",
    "from_nni",
    "make_genotype",
    "read_genotype",
    "to_compact",
    "to_config",
    "to_nni",
]

DARTS, S1, S2, S3, S4, S5 = DartsSpace(), S1Space(), S2Space(), S3Space(), S4Space(), S5Space()

"""DARTS's space of recurrent cells, for language modelling (Liu et al. 2019)."""

from __future__ import annotations

from .recurrent_genotype import (
    RecurrentGenotype,
    architecture_of,
    genotype_of,
    make_recurrent_genotype,
    read_recurrent_genotype,
)
from .recurrent_network import Dropouts, LanguageModel, build_language_model
from .recurrent_space import RecurrentSpace

__all__ = [
    "DARTS_RNN",
    "Dropouts",
    "LanguageModel",
    "RecurrentGenotype",
    "RecurrentSpace",
    "architecture_of",
    "build_language_model",
    "genotype_of",
    "make_recurrent_genotype",
    "read_recurrent_genotype",
]

DARTS_RNN = RecurrentSpace()

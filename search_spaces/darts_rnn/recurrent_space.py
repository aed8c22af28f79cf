"""The space of DARTS's recurrent cells as the rest of the package asks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.bayes.decisions import Architecture, Decision, SoftmaxNode
from balenas_plugin.search_spaces import (
    LANGUAGE_MODELLING,
    NONE,
    PARAMETRIC,
    CellEdge,
    Reading,
    SearchSpace,
    cells_with_outputs,
)

from .recurrent_genotype import CELL, LABELS, NODES, OPERATIONS, PUBLISHED, genotype_of, read_recurrent_genotype
from .recurrent_network import Dropouts, LanguageModel, build_language_model
from .recurrent_source import recurrent_source


class RecurrentSpace(SearchSpace):
    """DARTS's space of recurrent cells of eight nodes, with language models built directly, without NNI.

    Args:
        size: of the embedding and the hidden state.
        vocabulary: number of different words.
        length: words of a sequence.
        dropout, hidden_dropout, input_dropout, embedding_dropout, word_dropout: see `Dropouts`; those of the training.
    """

    name = "darts-rnn"
    title = "DARTS, recurrent cells"
    source = "Liu et al. 2019"
    supernet = "balenas_plugin.search_spaces.darts_rnn.supernet:RecurrentSupernet"
    task = LANGUAGE_MODELLING
    trained_as: Mapping[str, Mapping[str, int]] = {"Penn Treebank, word": {"length": 1}}
    published = PUBLISHED
    kinds = dict.fromkeys(OPERATIONS, PARAMETRIC) | {OPERATIONS[0]: NONE}  # each stands behind weights of its node
    size = math.factorial(NODES) * (len(OPERATIONS) - 1) ** NODES

    def __init__(
        self,
        *,
        size: int = 850,
        vocabulary: int = 10_000,
        length: int = 35,
        dropout: float = 0.75,
        hidden_dropout: float = 0.25,
        input_dropout: float = 0.75,
        embedding_dropout: float = 0.2,
        word_dropout: float = 0.1,
    ) -> None:
        self._sizes = (size, vocabulary)
        self._dropouts = Dropouts(dropout, hidden_dropout, input_dropout, embedding_dropout, word_dropout)
        self.image_shape = (length,)
        self.choices = {label: OPERATIONS for labels in LABELS.values() for label in labels}

    @cached_property
    def decisions(self) -> Sequence[Decision]:
        """The nodes: each takes the one edge with the largest softmax weight, `none` apart."""
        return [SoftmaxNode(CELL, node, labels, 1, (OPERATIONS,) * node) for node, labels in LABELS.items()]

    def like(self, supernet: Any, image_shape: tuple[int, ...]) -> SearchSpace:
        """Return the space in the sizes of its supernet, and with its dropouts."""
        view = type(self)(size=supernet.size, vocabulary=supernet.num_labels, length=image_shape[0])
        view._dropouts = supernet.dropouts
        return view

    def inputs(self, count: int, *, device: torch.device | str | None = None) -> Tensor:
        """Return sequences of the first word, int64, shape (count, T)."""
        return torch.zeros(count, *self.image_shape, dtype=torch.int64, device=device)

    def standalone_source(self, network: nn.Module, title: str) -> str | None:
        """Return the network's own code; a loop over the words of a sequence cannot be traced."""
        return recurrent_source(network, title) if isinstance(network, LanguageModel) else None

    def notation(self, architecture: Architecture) -> str:
        """Return the genotype in the reference's form."""
        return str(genotype_of(architecture))

    def read(self, text: str, *, notation: str | None = None) -> Reading:
        """Return the architecture that a text names (see `read_recurrent_genotype`)."""
        return read_recurrent_genotype(text, notation=notation)

    def cells(self, architecture: Mapping[str, Any]) -> dict[str, list[CellEdge]]:
        """Return the cell with its output, the mean of nodes: of all of them, or of those that a genotype says."""
        return cells_with_outputs(architecture)

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the freshly initialised language model that the architecture is evaluated by."""
        size, vocabulary = self._sizes
        return build_language_model(
            genotype_of(architecture), size=size, vocabulary=vocabulary, dropouts=self._dropouts
        )

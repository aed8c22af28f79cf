r"""Recurrent cells, and the language model around one, as plain PyTorch layers.

With the input :math:`x` of a step, the hidden state :math:`h` and the size d of both,

.. math::
    [c_0, a_0] &= [x, h]\,W_0, \quad s_0 = h + \sigma(c_0)\,(\tanh(a_0) - h) \\
    [c, a] &= s_j W_i, \quad s_i = s_j + \sigma(c)\,(f(a) - s_j) \quad\text{(node i, its input j and activation f)}

and the new hidden state, which is also the step's output, is the mean of the joined states. Masks of dropout are drawn
once a sequence: one for x, and one for h, which is also put on the :math:`s_j` that enter a product.

Parameters come in the order of the reference's networks: embedding, :math:`W_0, W_1, ...`, decoder.

Source: Liu et al. 2019 (DARTS, `rnn/model.py` and `rnn/model_search.py`); dropouts: Merity et al. 2018 (AWD-LSTM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recurrent_genotype import RecurrentGenotype

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}

INITIAL_RANGE = 0.04
"""Weights are drawn uniformly from so far below 0 to so far above; the decoder's bias is 0."""


class Dropouts(NamedTuple):
    """Probabilities that values are left out in training; the defaults are DARTS's, for its search.

    Attributes:
        output: of what the cell returns, before the decoder.
        hidden: of the hidden state and the states inside the cell.
        input: of what enters the cell.
        embedding: of embedded words.
        word: of whole words of the vocabulary.
    """

    output: float = 0.75
    hidden: float = 0.25
    input: float = 0.75
    embedding: float = 0.2
    word: float = 0.0


class Recurrence(nn.Module):
    """What recurrent cells have in common: the walk along a sequence, and their first state.

    Args:
        size: d.
        nodes: of the cell.
        dropouts: of the input and the hidden state.
    """

    def __init__(self, size: int, nodes: int, dropouts: Dropouts) -> None:
        super().__init__()
        self.dropouts = dropouts
        self.input_weight = nn.Parameter(torch.empty(2 * size, 2 * size).uniform_(-INITIAL_RANGE, INITIAL_RANGE))
        self.node_weights = nn.ParameterList(
            nn.Parameter(torch.empty(size, 2 * size).uniform_(-INITIAL_RANGE, INITIAL_RANGE)) for _ in range(nodes)
        )

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Map a sequence ``(B, T, d)`` and a hidden state ``(B, d)`` to outputs ``(B, T, d)`` and the last of them."""
        mask = locked_mask(hidden, self.dropouts.hidden, training=self.training)
        of_input, of_hidden = self.input_weight.chunk(2)
        given = masked(x, locked_mask(x[:, :1], self.dropouts.input, training=self.training)) @ of_input
        step, outputs = self.steps(mask), []
        for entering in given.unbind(1):
            gate, candidate = torch.addmm(entering, masked(hidden, mask), of_hidden).chunk(2, -1)
            hidden = step(hidden + gate.sigmoid() * (candidate.tanh() - hidden))
            outputs.append(hidden)
        return torch.stack(outputs, 1), hidden

    def steps(self, mask: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Return what maps the first state ``(B, d)`` to the new hidden state, in all steps of one sequence.

        Args:
            mask: of the states that enter a product.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how its nodes compute")


class GenotypeCell(Recurrence):
    """The recurrent cell of a genotype.

    Args:
        genotype: of any number of nodes.
        size: d.
        dropouts: of the input and the hidden state.
        normalise: whether a batch-norm without weights follows the first state and every node, as in the supernet.
    """

    def __init__(self, genotype: RecurrentGenotype, size: int, dropouts: Dropouts, *, normalise: bool = False) -> None:
        super().__init__(size, len(genotype.recurrent), dropouts)
        self.genotype = genotype
        self.norm = nn.BatchNorm1d(size, affine=False) if normalise else nn.Identity()

    def steps(self, mask: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Return what maps the first state to the mean of the joined ones."""

        def step(first: Tensor) -> Tensor:
            states = [self.norm(first)]
            for (activation, source), weight in zip(self.genotype.recurrent, self.node_weights, strict=True):
                state = states[source]
                gate, candidate = (masked(state, mask) @ weight).chunk(2, -1)
                states.append(self.norm(gated(state, gate.sigmoid(), ACTIVATIONS[activation](candidate))))
            return torch.stack([states[k] for k in self.genotype.concat], -1).mean(-1)

        return step

    def extra_repr(self) -> str:
        """Show the genotype in the cell's printed form."""
        return str(self.genotype)


class LanguageModel(nn.Module):
    """Predicts each word of a text from those before it; embedding and decoder share their weights.

    Args:
        cell: recurrent.
        size: d, of the embedding and the hidden state.
        vocabulary: number of different words.
        dropouts: of the embedding and the output.
    """

    def __init__(self, cell: nn.Module, size: int, vocabulary: int, dropouts: Dropouts) -> None:
        super().__init__()
        self.size, self.num_labels, self.dropouts = size, vocabulary, dropouts
        self.embedding = nn.Embedding(vocabulary, size)
        self.cell = cell
        self.decoder = nn.Linear(size, vocabulary)
        self.decoder.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -INITIAL_RANGE, INITIAL_RANGE)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, words: Tensor, hidden: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Map numbers of words ``(B, T)`` to logits of the next ones, ``(B, vocabulary, T)``.

        Args:
            words: int64.
            hidden: state ``(B, d)`` that the sequence begins in; None: zeros. If it is given, what the cell returned,
                ``(B, T, d)``, and the last hidden state, ``(B, d)``, come with the logits.
        """
        kept = self.embedding.weight
        if self.training and self.dropouts.word:
            kept = kept * F.dropout(kept.new_ones(len(kept), 1), self.dropouts.word)
        embedded = F.embedding(words, kept)
        embedded = masked(embedded, locked_mask(embedded[:, :1], self.dropouts.embedding, training=self.training))
        # words.shape[0], not len(words), which an export would take for a constant
        entering = embedded.new_zeros(words.shape[0], self.size) if hidden is None else hidden
        outputs, last = self.cell(embedded, entering)
        mask = locked_mask(outputs[:, :1], self.dropouts.output, training=self.training)
        logits: Tensor = self.decoder(masked(outputs, mask)).transpose(1, 2)
        return logits if hidden is None else (logits, outputs, last)


def build_language_model(
    genotype: RecurrentGenotype,
    *,
    size: int = 850,
    vocabulary: int = 10_000,
    dropouts: Dropouts | None = None,
    normalise: bool = False,
) -> LanguageModel:
    """Return the freshly initialised language model of a genotype, in the size in which DARTS trains it.

    Args:
        genotype: of its cell.
        size: d.
        vocabulary: number of different words.
        dropouts: None takes those of DARTS's evaluation, 0.1 of whole words.
        normalise: for the cell that takes its weights from the supernet, which has batch-norms.
    """
    dropouts = dropouts or Dropouts(word=0.1)
    return LanguageModel(GenotypeCell(genotype, size, dropouts, normalise=normalise), size, vocabulary, dropouts)


def gated(state: Tensor, gate: Tensor, candidate: Tensor) -> Tensor:
    """Return ``state + gate (candidate - state)``."""
    return state + gate * (candidate - state)


def locked_mask(like: Tensor, probability: float, *, training: bool) -> Tensor | None:
    """Return a mask of dropout in a shape, one for a whole sequence; None where nothing is left out."""
    return F.dropout(torch.ones_like(like), probability) if training and probability else None


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return a tensor times a mask, if there is one."""
    return x if mask is None else x * mask

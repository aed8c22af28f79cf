"""A text in rows that are read side by side, sequence after sequence, so that a hidden state can be carried on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset

from balenas_plugin.data.device_loader import EpochOrder

WEIGHTS, ARCHITECTURE = "weights", "architecture"
"""The two texts of a search, by what they train."""

Lengths = Literal["fixed", "halved", "normal"]
"""How many words the sequences have that train the weights, see `drawn_lengths`."""

_HALVED, _DEVIATION, _LEAST, _MOST_MORE = 0.05, 5.0, 5, 20
"""Of the reference's random lengths: the share of halved ones, and the normal ones' sigma and limits in words."""


class Excerpt(NamedTuple):
    """A batch that says where it is in its text; the last one of a text may be shorter.

    Attributes:
        words: int64, shape (B, T).
        targets: the word after each, int64, shape (B, T).
        rows: which rows of the text these are, int64, shape (B,).
        all_rows: how many rows the text has.
        sequence: number of this sequence in the rows, from 0.
        text: `WEIGHTS` or `ARCHITECTURE`, or what else it is called.
        rate: by which the learning rate is multiplied for this sequence.
    """

    words: Tensor
    targets: Tensor
    rows: Tensor
    all_rows: int
    sequence: int
    text: str
    rate: float = 1.0


class TextStreams(Dataset[tuple[Tensor, Tensor]]):
    """A text cut into rows of one length; an example is a whole sequence of a row, alone.

    Args:
        words: numbers of words, int64, shape (n,).
        rows: B; what is left over at the end of the text is not used.
        bptt: T, words of a sequence.
    """

    def __init__(self, words: Tensor, *, rows: int, bptt: int) -> None:
        length = len(words) // rows
        self.words = words[: rows * length].view(rows, length)
        self.bptt = bptt

    @property
    def predicted(self) -> int:
        """How many words are predicted: the first of each row is not."""
        rows, length = self.words.shape
        return rows * (length - 1)

    @property
    def sequences(self) -> int:
        """Sequences of a row, whole or not."""
        return math.ceil((self.words.shape[1] - 1) / self.bptt)

    def sequence(self, number: int) -> tuple[Tensor, Tensor]:
        """Return a sequence of all rows and the word after each of its words, int64, shapes (B, T)."""
        return self.part(number * self.bptt, self.bptt)

    def part(self, start: int, length: int) -> tuple[Tensor, Tensor]:
        """Return so many words of all rows from a place on and the word after each, int64, shapes (B, T)."""
        both = self.words[:, start : start + length + 1]
        return both[:, :-1], both[:, 1:]

    def __len__(self) -> int:
        return len(self.words) * ((self.words.shape[1] - 1) // self.bptt)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a whole sequence and its targets, int64, shapes (T,)."""
        whole = (self.words.shape[1] - 1) // self.bptt
        if not 0 <= index < len(self):
            raise IndexError(index)
        words, targets = self.sequence(index % whole)
        return words[index // whole], targets[index // whole]


class TextLoader:
    """Walk along all rows of a text at once; what is random follows from seed and epoch, so no state is to be saved.

    Where torch.distributed runs, each process has every W-th row, filled up from the first ones so that all have as
    many.

    Args:
        streams: the text.
        name: of the text, `WEIGHTS` or `ARCHITECTURE`.
        device: where the batches are.
        lengths: of the sequences. Where they are random, each has a `rate` of length / bptt, and a pass has those of
            all others in an order of its own: the reference draws new ones, but then epochs differ in their steps.
        seed: of random lengths.
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`

    def __init__(
        self,
        streams: TextStreams,
        *,
        name: str,
        device: torch.device | str = "cpu",
        lengths: Lengths = "fixed",
        seed: int = 0,
    ) -> None:
        self.dataset = streams
        self.name = name
        self.batch_size = len(streams.words)
        self.sampler = EpochOrder(streams.predicted, seed)
        """What a search counts as examples: the words that are predicted."""
        self.device = torch.device(device)
        self.lengths = drawn_lengths(streams, lengths, torch.Generator().manual_seed(seed))
        self._random = lengths != "fixed"

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Excerpt]:
        running = dist.is_available() and dist.is_initialized()
        rank, processes = (dist.get_rank(), dist.get_world_size()) if running else (0, 1)
        count = math.ceil(self.batch_size / processes)
        rows = torch.arange(count * processes)[rank::processes] % self.batch_size
        start, lengths = 0, self.lengths
        if self._random:
            *whole, last = lengths
            order = torch.randperm(len(whole), generator=self.sampler.next_generator())
            lengths = [*(whole[k] for k in order), last]
        for number, length in enumerate(lengths):
            words, targets = (part[rows].to(self.device) for part in self.dataset.part(start, length))
            rate = length / self.dataset.bptt if self._random else 1.0
            yield Excerpt(words, targets, rows.to(self.device), self.batch_size, number, self.name, rate)
            start += length


def drawn_lengths(streams: TextStreams, rule: Lengths, generator: torch.Generator) -> list[int]:
    """Return how many words the sequences of a pass have; the last one has what is left of the text, or less.

    Args:
        streams: the text.
        rule: "fixed": bptt each; "halved": every twentieth half of that, as in DARTS's search; "normal": normal around
            these with a deviation of five words, at least 5 and at most bptt + 20, as DARTS trains a network.
        generator: of what is random.

    Source: Liu et al. 2019 (DARTS, `rnn/train_search.py`, `rnn/train.py`); Merity et al. 2018.
    """
    left, bptt, lengths = streams.words.shape[1] - 1, streams.bptt, list[int]()
    while left > 0:
        length: float = bptt
        if rule != "fixed" and torch.rand((), generator=generator) < _HALVED:
            length = bptt / 2
        if rule == "normal":
            drawn = length + _DEVIATION * torch.randn((), generator=generator).item()
            length = min(max(min(_LEAST, bptt), drawn), bptt + _MOST_MORE)
        lengths.append(min(max(1, int(length)), left))
        left -= lengths[-1]
    return lengths

"""A text in rows that are read side by side, sequence after sequence, so that a hidden state can be carried on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset

WEIGHTS, ARCHITECTURE = "weights", "architecture"
"""The two texts of a search, by what they train."""


class Excerpt(NamedTuple):
    """A batch that says where it is in its text; the last one of a text may be shorter.

    Attributes:
        words: int64, shape (B, T).
        targets: the word after each, int64, shape (B, T).
        rows: which rows of the text these are, int64, shape (B,).
        all_rows: how many rows the text has.
        sequence: number of this sequence in the rows, from 0.
        text: `WEIGHTS` or `ARCHITECTURE`.
    """

    words: Tensor
    targets: Tensor
    rows: Tensor
    all_rows: int
    sequence: int
    text: str


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
        start = number * self.bptt
        both = self.words[:, start : start + self.bptt + 1]
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
    """Walk along all rows of a text at once; every pass is the same, so there is no state to save.

    Where torch.distributed runs, each process has every W-th row, filled up from the first ones so that all have as
    many.

    Args:
        streams: the text.
        name: of the text, `WEIGHTS` or `ARCHITECTURE`.
        device: where the batches are.
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`

    def __init__(self, streams: TextStreams, *, name: str, device: torch.device | str = "cpu") -> None:
        self.dataset = streams
        self.name = name
        self.batch_size = len(streams.words)
        self.sampler = range(streams.predicted)
        """What a search counts as examples: the words that are predicted."""
        self.device = torch.device(device)

    def __len__(self) -> int:
        return self.dataset.sequences

    def __iter__(self) -> Iterator[Excerpt]:
        running = dist.is_available() and dist.is_initialized()
        rank, processes = (dist.get_rank(), dist.get_world_size()) if running else (0, 1)
        count = math.ceil(self.batch_size / processes)
        rows = torch.arange(count * processes)[rank::processes] % self.batch_size
        for number in range(len(self)):
            words, targets = (part[rows].to(self.device) for part in self.dataset.sequence(number))
            yield Excerpt(words, targets, rows.to(self.device), self.batch_size, number, self.name)

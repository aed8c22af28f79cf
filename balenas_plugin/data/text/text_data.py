"""The texts of a search: that which trains the weights, that which trains the architecture, and their vocabulary."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.data.text.text_config import TextConfig
from balenas_plugin.data.text.text_sources import END, TEXTS, UNKNOWN, USES
from balenas_plugin.data.text.text_streams import TextStreams
from balenas_plugin.data.text.text_task import TextTask
from balenas_plugin.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class TextData:
    """The two texts that a one-shot search runs on.

    Attributes:
        weight_text: trains the weights w.
        architecture_text: trains the architecture parameters alpha, and is validated on.
        vocabulary: word 0, 1, ...
        description: what was loaded, for a run's manifest; JSON-compatible.
    """

    weight_text: TextStreams
    architecture_text: TextStreams
    vocabulary: tuple[str, ...]
    description: dict[str, Any]

    @property
    def task(self) -> TextTask:
        """What files of networks say of their words."""
        return TextTask(vocabulary=self.vocabulary, split=self.description["name"])

    @property
    def num_classes(self) -> int:
        """Number of words that are distinguished."""
        return len(self.vocabulary)

    def example(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first sequence of the rows of the architecture's text and its targets, shapes (count, T)."""
        words, targets = self.architecture_text.sequence(0)
        return words[:count], targets[:count]

    def summary(self) -> dict[str, str]:
        """Return title -> text, for people: the words, and which of them train what."""
        known = self.description
        weights, architecture = known["weight_words"], known["architecture_words"]
        unknown = ", ".join(f"{known[name]:.1%}" for name in ("weight_unknown", "architecture_unknown"))
        rows, _ = self.weight_text.words.shape
        where = f"in {known['root']}" if known.get("root") else f"of the text {known['name']}"
        return {
            "text": f"{weights + architecture:,} words {where}, {self.num_classes:,} different ones; the share of "
            f"{UNKNOWN} is {unknown}",
            "halves": f"{weights:,} train the weights, {architecture:,} others the architecture and validate it; "
            f"{rows} rows side by side, {self.weight_text.bptt} words at a time",
        }


def load_text_data(config: TextConfig) -> TextData:
    """Read the training and the validation text, and number their words.

    Raises:
        DataError: a text is missing, empty, not in UTF-8, or shorter than one batch.
    """
    texts = {part: read_words(config, part) for part in ("train", "valid")}
    trains, learns = texts.values()
    vocabulary = build_vocabulary(trains, most=config.vocabulary)
    weight_text, architecture_text = (
        text_streams(words, part, vocabulary, rows=config.batch_size, bptt=config.bptt) for part, words in texts.items()
    )
    return TextData(
        weight_text=weight_text,
        architecture_text=architecture_text,
        vocabulary=vocabulary,
        description={
            "name": config.name,
            "root": config.root if config.name == "text" else None,
            "weight_words": weight_text.predicted,
            "architecture_words": architecture_text.predicted,
            "num_classes": len(vocabulary),
            "weight_unknown": share_of_unknown(trains, vocabulary),
            "architecture_unknown": share_of_unknown(learns, vocabulary),
            "text_sha256": fingerprint(trains, learns),
            "vocabulary_sha256": fingerprint(vocabulary),
        },
    )


def load_test_text(config: TextConfig, vocabulary: Sequence[str]) -> TextStreams:
    """Read the test text, numbered by the vocabulary of the training text.

    Raises:
        DataError: it is missing, empty, not in UTF-8, or shorter than one batch.
    """
    return text_streams(read_words(config, "test"), "test", vocabulary, rows=config.batch_size, bptt=config.bptt)


def build_vocabulary(words: Iterable[str], *, most: int | None = None) -> tuple[str, ...]:
    """Return the most frequent words, the first of them first; the end of a line and the unknown word are among them.

    Args:
        words: of the training text.
        most: how many in all; None: every one.
    """
    counts = Counter(words)
    always = (END, UNKNOWN)
    others = [word for word, _ in counts.most_common() if word not in always]  # of equal ones, the first in the text
    return (*always, *others[: None if most is None else most - len(always)])


def read_words(config: TextConfig, part: str) -> list[str]:
    """Return the words of "train", "valid" or "test".

    Raises:
        DataError: the text is missing, empty or not in UTF-8.
    """
    return TEXTS[config.name](part, config.root if isinstance(config.root, str) else None)[: config.limit]


def text_streams(
    words: Sequence[str], part: str, vocabulary: Sequence[str], *, rows: int, bptt: int, called: str = "data."
) -> TextStreams:
    """Return a text in rows, numbered by a vocabulary.

    Args:
        words: of the text.
        part: which it is, "train", "valid" or "test".
        vocabulary: word 0, 1, ...
        rows: which are read side by side.
        bptt: words of a sequence.
        called: what stands before the names of these two in messages.

    Raises:
        DataError: it is shorter than one batch.
    """
    least = rows * (bptt + 1)
    if len(words) < least:
        raise DataError(
            f"the text to {USES[part]} has {len(words):,} words, fewer than one batch needs: {called}batch_size {rows} "
            f"x ({called}bptt {bptt} + 1) = {least:,}; lower them, or give more text"
        )
    numbers = {word: number for number, word in enumerate(vocabulary)}
    unknown = numbers[UNKNOWN]
    numbered = torch.tensor([numbers.get(word, unknown) for word in words], dtype=torch.int64)
    return TextStreams(numbered, rows=rows, bptt=bptt)


def share_of_unknown(words: Sequence[str], vocabulary: Sequence[str]) -> float:
    """Return which share of the words is not in the vocabulary."""
    known = set(vocabulary) - {UNKNOWN}
    return sum(word not in known for word in words) / len(words)


def fingerprint(*texts: Iterable[str]) -> str:
    """Return the SHA-256 of words: which they are, in which order, and where each text ends."""
    digest = hashlib.sha256()
    for words in texts:
        digest.update("\n".join(words).encode("utf-8") + b"\0")
    return digest.hexdigest()

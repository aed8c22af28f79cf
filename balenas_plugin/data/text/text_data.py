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
from balenas_plugin.data.text.text_sources import END, TEXTS, UNKNOWN
from balenas_plugin.data.text.text_streams import TextStreams
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
    task = None
    """Files of networks say nothing of their words: the vocabulary is that of the training text."""

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
    trains, learns = (_words(config, part) for part in ("train", "valid"))
    vocabulary = build_vocabulary(trains, most=config.vocabulary)
    weight_text, architecture_text = (_streams(config, words, vocabulary) for words in (trains, learns))
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
            "weight_unknown": _share_of_unknown(trains, vocabulary),
            "architecture_unknown": _share_of_unknown(learns, vocabulary),
            "text_sha256": _fingerprint(trains, learns),
            "vocabulary_sha256": _fingerprint(vocabulary),
        },
    )


def load_test_text(config: TextConfig, vocabulary: Sequence[str]) -> TextStreams:
    """Read the test text, numbered by the vocabulary of the training text.

    Raises:
        DataError: it is missing, empty, not in UTF-8, or shorter than one batch.
    """
    return _streams(config, _words(config, "test"), vocabulary)


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


def _words(config: TextConfig, part: str) -> list[str]:
    return TEXTS[config.name](part, config.root if isinstance(config.root, str) else None)[: config.limit]


def _streams(config: TextConfig, words: Sequence[str], vocabulary: Sequence[str]) -> TextStreams:
    least = config.batch_size * (config.bptt + 1)
    if len(words) < least:
        raise DataError(
            f"a text has {len(words):,} words, fewer than one batch needs: data.batch_size {config.batch_size} x "
            f"(data.bptt {config.bptt} + 1) = {least:,}; lower them, or give more text"
        )
    numbers = {word: number for number, word in enumerate(vocabulary)}
    unknown = numbers[UNKNOWN]
    numbered = torch.tensor([numbers.get(word, unknown) for word in words], dtype=torch.int64)
    return TextStreams(numbered, rows=config.batch_size, bptt=config.bptt)


def _share_of_unknown(words: Sequence[str], vocabulary: Sequence[str]) -> float:
    known = set(vocabulary) - {UNKNOWN}
    return sum(word not in known for word in words) / len(words)


def _fingerprint(*texts: Iterable[str]) -> str:
    """Return the SHA-256 of words: which they are, in which order, and where each text ends."""
    digest = hashlib.sha256()
    for words in texts:
        digest.update("\n".join(words).encode("utf-8") + b"\0")
    return digest.hexdigest()

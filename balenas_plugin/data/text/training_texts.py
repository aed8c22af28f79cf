"""The texts of a training: one to train on, one that validates each epoch, and one for the test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from balenas_plugin.data.text.text_config import TextConfig
from balenas_plugin.data.text.text_data import (
    build_vocabulary,
    fingerprint,
    read_words,
    share_of_unknown,
    text_streams,
)
from balenas_plugin.data.text.text_sources import PARTS
from balenas_plugin.data.text.text_streams import TextStreams
from balenas_plugin.data.text.text_task import TextTask

_VALIDATION_ROWS, _TEST_ROWS = 10, 1
"""Rows that these texts are read in, as in DARTS; the fewer, the fewer words have none before them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingTexts:
    """Texts to train a network on, and others to validate and to test it on.

    Attributes:
        training: in as many rows as a batch.
        validation: validates each epoch.
        test: that nothing but the test looks at.
        task: the vocabulary, and how a text becomes words.
        description: where they come from; JSON-compatible.
    """

    training: TextStreams
    validation: TextStreams
    test: TextStreams
    task: TextTask
    description: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Word 0, 1, ..."""
        return self.task.vocabulary

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of an input: the words of a sequence."""
        return (self.training.bptt,)

    @property
    def sizes(self) -> dict[str, int]:
        """What of the sizes of a space's networks these data say."""
        return {"vocabulary": len(self.class_names), "length": self.training.bptt}

    @property
    def identity(self) -> dict[str, Any]:
        """What a training that is resumed must find as it was: all but where the texts are."""
        return {key: value for key, value in self.description.items() if key != "root"}


def load_training_texts(config: TextConfig, *, batch_size: int, bptt: int) -> TrainingTexts:
    """Read the three texts of a training, and number their words by the first.

    Args:
        config: which texts; its `batch_size`, `bptt` and `lengths` are those of a search.
        batch_size: rows that the training text is read in.
        bptt: words of a sequence.

    Raises:
        DataError: a text is missing, empty, not in UTF-8, or shorter than one batch.
    """
    texts = {part: read_words(config, part) for part in PARTS}
    vocabulary = build_vocabulary(texts["train"], most=config.vocabulary)
    most = max(1, min(_VALIDATION_ROWS, len(texts["valid"]) // (bptt + 1)))
    rows = dict(zip(PARTS, (batch_size, most, _TEST_ROWS), strict=True))
    training, validation, test = (
        text_streams(words, part, vocabulary, rows=rows[part], bptt=bptt, called="") for part, words in texts.items()
    )
    return TrainingTexts(
        training=training,
        validation=validation,
        test=test,
        task=TextTask(vocabulary=vocabulary, split=config.name),
        description={
            "name": config.name,
            "root": config.root if config.name == "text" else None,
            "limit": config.limit,
            "words": {part: len(words) for part, words in texts.items()},
            "unknown": {part: share_of_unknown(words, vocabulary) for part, words in texts.items()},
            "num_classes": len(vocabulary),
            "text_sha256": fingerprint(*texts.values()),
            "vocabulary_sha256": fingerprint(vocabulary),
        },
    )

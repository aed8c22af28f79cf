"""Texts for a language model: read, numbered by a vocabulary, and cut into sequences that follow each other."""

from __future__ import annotations

from balenas_plugin.data.text.text_config import TextConfig
from balenas_plugin.data.text.text_data import TextData, load_test_text, load_text_data
from balenas_plugin.data.text.text_streams import ARCHITECTURE, WEIGHTS, Excerpt, Lengths, TextLoader, TextStreams
from balenas_plugin.data.text.text_task import TextTask
from balenas_plugin.data.text.training_texts import TrainingTexts, load_training_texts

__all__ = [
    "ARCHITECTURE",
    "WEIGHTS",
    "Excerpt",
    "Lengths",
    "TextConfig",
    "TextData",
    "TextLoader",
    "TextStreams",
    "TextTask",
    "TrainingTexts",
    "load_test_text",
    "load_text_data",
    "load_training_texts",
]

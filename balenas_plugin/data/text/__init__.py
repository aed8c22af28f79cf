"""Texts for a language model: read, numbered by a vocabulary, and cut into sequences that follow each other."""

from __future__ import annotations

from balenas_plugin.data.text.text_config import TextConfig
from balenas_plugin.data.text.text_data import TextData, load_test_text, load_text_data
from balenas_plugin.data.text.text_streams import ARCHITECTURE, WEIGHTS, Excerpt, TextLoader, TextStreams

__all__ = [
    "ARCHITECTURE",
    "WEIGHTS",
    "Excerpt",
    "TextConfig",
    "TextData",
    "TextLoader",
    "TextStreams",
    "load_test_text",
    "load_text_data",
]

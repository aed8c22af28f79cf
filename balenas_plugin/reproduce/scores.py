"""Scores of architectures that tables share: each is computed once, and remembered in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from balenas_plugin.files import write_text_atomically


class ScoreFile:
    """Architecture -> its score by one criterion.

    Args:
        path: of the file; where it is of something else it is forgotten.
        of: what the scores depend on, plain values for JSON.
    """

    def __init__(self, path: Path, of: Mapping[str, Any]) -> None:
        self._path = path
        self._of = dict(of)
        self._scores: dict[str, float] = {}
        if path.exists():
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["of"] == self._of:
                self._scores = document["scores"]

    def __contains__(self, architecture: str) -> bool:
        return architecture in self._scores

    def __getitem__(self, architecture: str) -> float:
        return self._scores[architecture]

    def add(self, scores: Iterable[tuple[str, float]]) -> None:
        """Remember more scores."""
        self._scores.update(scores)
        write_text_atomically(self._path, json.dumps({"of": self._of, "scores": self._scores}, indent=1) + "\n")

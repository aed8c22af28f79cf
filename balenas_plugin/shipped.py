"""Where configs/ and search_spaces/ of this project are: beside the package in a checkout, inside an installed one."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_TREE = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent

CONFIGS = _TREE / "configs"
SEARCH_SPACES = _TREE / "search_spaces"

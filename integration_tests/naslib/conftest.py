"""Import BaLeNAS for NASLib once, with the real NASLib or the double."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .which import VARIABLE, root

_before = os.environ.get(VARIABLE)
_path = list(sys.path)
os.environ[VARIABLE] = str(root())
try:
    import balenas_plugin.naslib  # noqa: F401
finally:
    sys.path[:] = _path  # processes that tests start find NASLib by the variable alone
    if _before is None:
        del os.environ[VARIABLE]


@pytest.fixture(autouse=True)
def _small_and_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    logging.getLogger("naslib").setLevel(logging.WARNING)

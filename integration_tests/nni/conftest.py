"""What every test of the NNI adapter needs: one thread, a fixed seed, and no files in the checkout."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import balenas_plugin.adapters.nni  # noqa: F401  (before a test imports NNI's parts in an order that breaks it)


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
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("nni").setLevel(logging.ERROR)

"""Shared fixtures: where the reference vectors and data sets lie."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from balenas_plugin.run_folder.location import FOLDER_VARIABLE

from .naslib.which import description

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same in the processes that tests start
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # more are processes, which import torch again
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by a script with `&`: its children would ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # started by nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def nothing_of_an_earlier_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a search leaves in the environment for processes that it starts: its seed and its folder."""
    for name in ("PL_GLOBAL_SEED", FOLDER_VARIABLE):
        monkeypatch.delenv(name, raising=False)


SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_report_header() -> str:
    """Say which NASLib the contract tests run with."""
    return f"NASLib: {description()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files that wait for a browser evenly among those that compute, so that neither is left for the end."""
    files = list(dict.fromkeys(item.path for item in items))
    web = [path for path in files if path.parent.name == "web"]
    computing = [path for path in files if path not in web]
    places: dict[Path, float] = {path: k for k, path in enumerate(computing)}
    places |= {path: k * len(computing) / (len(web) + 1) - 0.5 for k, path in enumerate(web)}
    items.sort(key=lambda item: places[item.path])


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Folder of the reference vectors (they lie beside the checkout, not in it)."""
    folder = SHARED / "parity"
    if not folder.is_dir():
        pytest.skip(f"the reference vectors are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the parquet data sets (BALENAS_DATA, or beside the checkout)."""
    folder = Path(os.environ.get("BALENAS_DATA", SHARED / "data"))
    if not folder.is_dir():
        pytest.skip(f"the parquet data sets are not at {folder}; set BALENAS_DATA")
    return folder

"""A search so small that it takes a second, and a finished run of it that many tests look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from .commands import Stop, balenas, real_balenas

HERE = Path(__file__).parent

TINY: dict[str, Any] = {
    "threads": 1,
    "space": {"name": "NasBench201", "stem_out_channels": 2, "num_modules_per_stack": 1},
    "data": {"name": "digits", "limit": 128, "batch_size": 32},
    "strategy": {"name": "BaLeNAS", "num_mc_samples": 1, "arc_learning_rate": 0.01},
    "evaluator": {"epochs": 3},
    "top_k": 3,
}
"""Three epochs of two batches. One thread, so that a run's digits do not depend on the machine's cores."""


STOPPING = "space={name: 'faulty_spaces:Stopping', stem_out_channels: 2, num_modules_per_stack: 1}"
"""The same with a space that can stop its process."""


def write_config(folder: Path) -> None:
    """Write tiny.yml, and the module of faulty model spaces beside it."""
    (folder / "tiny.yml").write_text(yaml.safe_dump(TINY, sort_keys=False), encoding="utf-8")
    shutil.copy(HERE / "faulty_spaces.py", folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with tiny.yml in it."""
    write_config(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a working directory once for all processes of pytest, which only look at it."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder = place / name
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                being_made = tmp_path_factory.mktemp(name)
                write_config(being_made)
                make(being_made)
                being_made.rename(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def finished(shared: Callable[..., Path]) -> Path:
    """A finished run of tiny.yml, made by the installed command; not to be changed."""

    def make(folder: Path) -> None:
        ended = real_balenas("search", "tiny.yml", folder=folder, PYTHONHASHSEED="1")
        (folder / "output.txt").write_text(ended.output)
        (folder / "errors.txt").write_text(ended.errors)
        assert ended.code == 0, ended.errors

    return shared("finished", make) / "runs" / "tiny"


@pytest.fixture
def copy_of_finished(finished: Path, folder: Path) -> Path:
    """A copy of the finished run at runs/tiny, to be damaged."""
    return Path(shutil.copytree(finished, folder / "runs" / "tiny"))


@pytest.fixture(scope="session")
def whole_of_stopping(shared: Callable[..., Path]) -> Path:
    """A finished run with the space that can stop its process, which it did not; not to be changed."""

    def make(folder: Path) -> None:
        ended = balenas("search", "tiny.yml", "--set", STOPPING, "--output", "whole", folder=folder)
        assert ended.code == 0, ended.errors

    return shared("whole", make) / "whole"


@pytest.fixture(scope="session")
def stopped(shared: Callable[..., Path]) -> Path:
    """A run of tiny.yml that was killed in its second epoch; not to be changed."""

    def make(folder: Path) -> None:
        ended = balenas("search", "tiny.yml", folder=folder, stop=Stop("batch end", 3))
        assert ended.code == -9, ended.errors

    return shared("stopped", make) / "runs" / "tiny"


@pytest.fixture
def copy_of_stopped(stopped: Path, folder: Path) -> Path:
    """A copy of the stopped run at runs/tiny, to be resumed or damaged."""
    return Path(shutil.copytree(stopped, folder / "runs" / "tiny"))

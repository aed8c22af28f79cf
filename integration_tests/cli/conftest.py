"""A search so small that it takes a second, and a finished run of it that many tests look at."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

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
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of tiny.yml, made by the installed command; not to be changed."""
    working_directory = tmp_path_factory.mktemp("finished")
    write_config(working_directory)
    ended = real_balenas("search", "tiny.yml", folder=working_directory, PYTHONHASHSEED="1")
    (working_directory / "output.txt").write_text(ended.output)
    (working_directory / "errors.txt").write_text(ended.errors)
    assert ended.code == 0, ended.errors
    return working_directory / "runs" / "tiny"


@pytest.fixture
def copy_of_finished(finished: Path, folder: Path) -> Path:
    """A copy of the finished run at runs/tiny, to be damaged."""
    return Path(shutil.copytree(finished, folder / "runs" / "tiny"))


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tiny.yml that was killed in its second epoch; not to be changed."""
    working_directory = tmp_path_factory.mktemp("stopped")
    write_config(working_directory)
    ended = balenas("search", "tiny.yml", folder=working_directory, stop=Stop("batch end", 3))
    assert ended.code == -9, ended.errors
    return working_directory / "runs" / "tiny"


@pytest.fixture
def copy_of_stopped(stopped: Path, folder: Path) -> Path:
    """A copy of the stopped run at runs/tiny, to be resumed or damaged."""
    return Path(shutil.copytree(stopped, folder / "runs" / "tiny"))

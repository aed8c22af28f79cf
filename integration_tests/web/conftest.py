"""A search so small that it takes seconds, and one finished experiment whose page many tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import pages
from .programs import Experiment, Program, balenas_ui, until

TINY: dict[str, Any] = {
    "threads": 1,
    "space": {"name": "NasBench201", "stem_out_channels": 2, "num_modules_per_stack": 1},
    "data": {"name": "digits", "limit": 128, "batch_size": 32},
    "strategy": {"name": "BaLeNAS", "num_mc_samples": 1, "arc_learning_rate": 0.01, "candidate_trials": 2},
    "evaluator": {"epochs": 3},
    "top_k": 3,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory, and home, with tiny.yml in it."""
    return with_config(tmp_path)


def with_config(folder: Path) -> Path:
    (folder / "tiny.yml").write_text(yaml.safe_dump(TINY, sort_keys=False), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Shown:
    """An experiment whose page is open."""

    folder: Path
    program: Program
    experiment: Experiment


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Stop what a failed test has left; the shared page is older than any test that looks at it."""
    before = len(Program.started)
    yield
    for program in Program.started[before:]:
        if program.process.poll() is None:
            program.stop()


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A finished experiment of `balenas ui`, two trials at a time, with its page still open."""
    folder = with_config(tmp_path_factory.mktemp("shown"))
    program = balenas_ui("tiny.yml", "--port", 0, "--concurrency", 2, folder=folder)
    try:
        experiment = Experiment.of(program)
        until(
            lambda: "stays open" in program.output or program.process.poll() is not None, what="the end of the search"
        )
        assert program.process.poll() is None, program.errors
        yield Shown(folder, program, experiment)
    finally:
        if program.process.poll() is None:
            program.stop()


@pytest.fixture(scope="session")
def page(shown: Shown) -> Iterator[pages.Page]:
    """The finished experiment in headless Chromium."""
    lacking = pages.missing()
    if lacking:
        pytest.skip(f"no browser test: {lacking}")
    browser = pages.Page(shown.experiment.address)
    yield browser
    browser.close()

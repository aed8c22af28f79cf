"""What is installed: everything of the checkout, under one import name, and nothing of a folder called the same."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tracked(*folders: str) -> set[str]:
    """Return the files of git in these folders of the checkout, the spaces and configs as they are installed."""
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {line if line.startswith("balenas_plugin/") else f"balenas_plugin/{line}" for line in listed.stdout.split()}


def test_a_wheel_holds_all_and_finds_its_own(tmp_path: Path) -> None:
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel")
    (wheel,) = builders.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "site")
    assert tracked("balenas_plugin", "search_spaces", "configs") <= names
    assert {name.partition("/")[0] for name in names} == {"balenas_plugin"}

    foreign = tmp_path / "site" / "search_spaces" / "foreign"
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").write_text("raise SystemExit('a foreign space was imported')")
    code = "from balenas_plugin.files import CONFIGS, SEARCH_SPACES; print(CONFIGS); print(SEARCH_SPACES)"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )
    inside = tmp_path / "site" / "balenas_plugin"
    assert ended.stdout.split() == [str(inside / "configs"), str(inside / "search_spaces")]


def test_nothing_in_the_checkout_is_a_symbolic_link() -> None:
    listed = subprocess.run(["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []

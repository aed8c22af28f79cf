"""Every command and example of the documentation runs as it is printed, on a search made small; the site builds."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from balenas_plugin.cli import build_parser

from .commands import balenas
from .conftest import TINY

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
ELSEWHERE = ("balenas doctor",)
"""Its checks are run by test_doctor.py; all of them take half a minute."""

TAKES_HOURS = ("balenas reproduce ", "balenas auto ")
"""How commands begin that are only parsed here; test_reproduce_command.py and test_auto.py run them on little."""

NEEDS_NASLIB = ("naslib.md",)
"""Pages whose scripts need a clone of NASLib, which no registry has."""

_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def examples(page: str) -> list[tuple[str, str]]:
    """Return (language, text) of each command and each script of a page, in order; scripts begin with their imports."""
    found = []
    for language, block in _BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        if language == "sh":
            found += [(language, line) for line in block.replace("\\\n", "").splitlines() if line.strip()]
        elif block.startswith(("import ", "from ")):
            found.append((language, block))
    return found


@pytest.fixture(scope="session")
def searched(shared: Callable[..., Path]) -> Path:
    """A run in the space of configs/quickstart.yml, so that examples fit it; of one epoch, and not to be changed."""

    def make(folder: Path) -> None:
        space = yaml.safe_load((ROOT / "configs" / "quickstart.yml").read_text(encoding="utf-8"))["space"]
        data, diagnostics = {"name": "digits", "limit": 64, "batch_size": 16}, {"curvature": "off"}
        made = {"name": "quickstart", "space": space, "data": data, "diagnostics": diagnostics}
        small = {**TINY, **made, "evaluator": {"epochs": 1}}
        (folder / "small.yml").write_text(yaml.safe_dump(small), encoding="utf-8")
        ended = balenas("search", "small.yml", folder=folder)
        assert ended.code == 0, ended.errors

    return shared("searched", make) / "runs" / "quickstart"


@pytest.fixture
def place(folder: Path, searched: Path) -> Path:
    """A working directory with that run, and a configs/quickstart.yml whose space is the cheapest."""
    (folder / "configs").mkdir()
    small = {**TINY, "name": "quickstart", "diagnostics": {"curvature_every_n_epochs": 9}}
    (folder / "configs" / "quickstart.yml").write_text(yaml.safe_dump(small), encoding="utf-8")
    shutil.copytree(searched, folder / "runs" / "quickstart")
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page) and page not in NEEDS_NASLIB])
def test_commands_and_scripts_of_a_page(page: str, place: Path) -> None:
    if any("--output runs/quickstart" in text for _, text in examples(page)):
        shutil.rmtree(place / "runs")
    for number, (language, text) in enumerate(examples(page)):
        if text in ELSEWHERE:
            continue
        if language == "sh":
            command, *words = shlex.split(text, comments=True)
            assert command == "balenas", text
            if text.startswith(TAKES_HOURS):
                build_parser().parse_args(words)
                continue
            ended = balenas(*words, folder=place)
        else:
            script = place / f"example{number}.py"
            script.write_text(text, encoding="utf-8")
            ended = balenas(folder=place, script=script)
        assert ended.code == 0, (text, ended.errors)


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install '.[docs]'")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    for page in PAGES:
        name = page.removesuffix(".md")
        built = tmp_path / "site" / name.removesuffix("index") / "index.html"
        assert built.exists(), page
    reference = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("BaLeNAS", "Diagnostics", "DiagnosticsOptions", "Posterior", "curvature_every_n_epochs"):
        assert name in reference


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    assert sorted(re.findall(r": (\S+\.md)", navigation)) == PAGES

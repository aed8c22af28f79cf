"""Help and version, and that they come without importing a framework."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from balenas_plugin import __version__
from balenas_plugin.cli import main

HEAVY = ("torch", "numpy", "nni", "pytorch_lightning", "naslib", "matplotlib")


def imported_by(statement: str) -> list[str]:
    """Return which of the heavy packages a new process has imported after `statement`."""
    code = f"{statement}\nimport sys\nprint('imported:', *(m for m in {HEAVY} if m in sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env={**os.environ}
    )
    return ended.stdout.rpartition("imported:")[2].split()


def test_importing_the_package_imports_no_framework() -> None:
    assert imported_by("import balenas_plugin; dir(balenas_plugin); balenas_plugin.__version__") == []


def test_help_imports_no_framework() -> None:
    statement = "from balenas_plugin.cli import main\ntry: main(['search', '--help'])\nexcept SystemExit: pass"
    assert imported_by(statement) == []


def test_a_public_name_imports_what_it_needs_only() -> None:
    assert imported_by("from balenas_plugin import Posterior, VAdam") == ["torch", "numpy"]
    with pytest.raises(ImportError):
        exec("from balenas_plugin import Bales")


def help_of(*command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_lists_the_commands_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys=capsys)
    assert "search" in text
    assert "doctor" in text
    assert "balenas search configs/quickstart.yml" in text
    assert "exit codes" in text


def test_help_of_search_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("search", capsys=capsys)
    for option in ("CONFIG.yml", "--set A.B=VALUE", "--seed", "--output DIR", "--resume", "--overwrite"):
        assert option in text
    assert "balenas search configs/quickstart.yml --set strategy=DARTS" in text


def test_help_of_naslib_shows_how_to_run_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("naslib", capsys=capsys)
    assert "naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml" in text
    assert "BALENAS_NASLIB_PATH" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"balenas {__version__}\n"

"""Which NASLib the tests run with: the real one where there is one, else the double."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

VARIABLE = "BALENAS_NASLIB_PATH"
DOUBLE = Path(__file__).with_name("double")
GIVEN = os.environ.get(VARIABLE)
REAL = bool(GIVEN) or importlib.util.find_spec("naslib") is not None


def root() -> Path:
    """Return the folder that holds the package naslib."""
    if GIVEN:
        return Path(GIVEN).expanduser().resolve()
    spec = importlib.util.find_spec("naslib") if REAL else None
    return DOUBLE if spec is None or spec.origin is None else Path(spec.origin).parents[1]


def description() -> str:
    """Return one line for the test report."""
    if not REAL:
        return f"the double of integration_tests/naslib; set {VARIABLE} to test with the real one"
    command = ["git", "-C", str(root()), "rev-parse", "--short=8", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return f"the real one in {root()}, at {commit or 'an unknown commit'}"

"""Take the pictures of docs/images: ``python integration_tests/web/screenshots.py [CONFIG.yml] [--output DIR]``.

Runs a search with `balenas ui` and photographs NNI's page in headless Chromium. Needs what the browser tests need.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from pages import Page, missing
from programs import Experiment, balenas_ui, until

ROOT = Path(__file__).resolve().parents[2]
SETTLED = 3
"""Seconds for NNI's page to end its animations."""


def take(address: str, output: Path) -> None:
    """Save four pictures of the experiment at `address`."""
    page = Page(address, size=(1500, 900))

    def picture(name: str) -> None:
        time.sleep(SETTLED)
        page.picture(output / f"web-ui-{name}.png")

    try:
        page.overview()
        picture("overview")
        page.trials()
        page.driver.execute_script("window.scrollTo(0, document.body.scrollHeight)")
        picture("trials")
        page.intermediate_points(0)
        picture("intermediate")
        page.trials()
        page.tab("Hyper-parameter")
        page.axes()
        picture("hyper-parameters")
    finally:
        page.close()


def main() -> int:
    """Search, then take the pictures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=ROOT / "configs/quickstart.yml", metavar="CONFIG.yml")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images", metavar="DIR")
    options = parser.parse_args()
    lacking = missing()
    if lacking:
        print(f"no pictures: {lacking}", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        program = balenas_ui(options.config.resolve(), "--port", 0, "--concurrency", 2, folder=Path(folder))
        try:
            experiment = Experiment.of(program)
            until(
                lambda: "stays open" in program.output or program.process.poll() is not None,
                what="the end of the search",
                patience=3600,
            )
            if program.process.poll() is not None:
                print(program.errors, file=sys.stderr)
                return 2
            take(experiment.address, options.output)
        finally:
            program.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

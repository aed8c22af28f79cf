"""Replay reference vectors with the package's own code: one line a section, its name and the largest difference.

    python integration_tests/parity.py ../shared/parity/vadam.json ../shared/parity/family/*.json

A file's name up to the first `_heldout` or `.` is the method, whose replay is the module of that name in replays/. A
section that nothing replays is called unknown. Differences above 1e-6, or a file that cannot be replayed, end with 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-6


def lines(path: Path) -> Iterator[tuple[str, float | Exception | None]]:
    """Yield each section of a file with its largest difference, or why it has none; None where nothing replays it."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    method = path.name.split("_heldout")[0].split(".")[0]
    document = {**json.loads(path.read_text(encoding="utf-8")), "path": str(path)}
    descriptions = importlib.import_module("replays").DESCRIPTIONS
    if not (HERE / "replays" / f"{method}.py").exists():
        yield from ((name, None) for name in document if name not in {*descriptions, "path"})
        return
    replays = importlib.import_module(f"replays.{method}")
    for name in document:
        if name in replays.SECTIONS:
            try:
                yield name, replays.SECTIONS[name](document)
            except Exception as error:  # whatever a damaged section leads to
                yield name, error
        elif name not in {*descriptions, *replays.INPUTS, "path"}:
            yield name, None
    for name in getattr(replays, "unknown", lambda document: ())(document):
        yield name, None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a JSON file of reference vectors")
    torch.set_num_threads(1)  # tiny tensors
    failed = False
    for path in parser.parse_args(arguments).files:
        print(path.name)
        try:
            for name, off in lines(path):
                if off is None:
                    print(f"  unknown: {name}", flush=True)
                elif isinstance(off, Exception):
                    failed = True
                    print(f"  {name} cannot be replayed: {type(off).__name__}: {off}", flush=True)
                else:
                    failed |= not off <= TOLERANCE
                    print(f"  {name} {off:.1e}", flush=True)
        except (OSError, ValueError, TypeError) as error:
            failed = True
            print(f"  cannot be replayed: {type(error).__name__}: {error}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""`balenas naslib`: one of NASLib's own scripts with our methods among its optimizers."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from balenas_plugin.cli.inputs import require_file

_EXAMPLES = """\
examples:
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml optimizer balenas-gdas
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml --resume

NASLib is looked for on Python's path and where BALENAS_NASLIB_PATH says: docs/naslib.md.
"""


def add_naslib(commands: Any, formatter: Any) -> None:
    """Add `balenas naslib`."""
    naslib = commands.add_parser(
        "naslib",
        help="run one of NASLib's own scripts with our methods among its optimizers",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    naslib.add_argument("script", type=Path, metavar="SCRIPT", help="e.g. NASLib/naslib/runners/nas/runner.py")
    naslib.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the script's own arguments")
    naslib.set_defaults(run_command=_naslib)


def _naslib(options: argparse.Namespace) -> int:
    require_file(options.script, "the script")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NASLib's code warns about newer Pythons, NumPys and torches
        from balenas_plugin.adapters.naslib.runner import run_script

    run_script(options.script, options.arguments)
    return 0

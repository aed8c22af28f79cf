"""`balenas report`: one page about one run or several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from balenas_plugin.cli.inputs import require_run

_EXAMPLES = """\
examples:
  balenas report runs/quickstart                          writes runs/quickstart/report.html
  balenas report runs/a runs/b runs/c --output compared.html --png pictures

The page is one file that loads nothing. Runs that differ in their seed alone are averaged.
"""


def add_report(commands: Any, formatter: Any) -> None:
    """Add `balenas report`."""
    report = commands.add_parser(
        "report",
        help="write a page about one run, or several side by side",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="folders of searches, finished or not")
    report.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (RUN_DIR/report.html; report.html for several runs)"
    )
    report.add_argument("--png", type=Path, metavar="DIR", help="write every picture there as a PNG as well")
    report.set_defaults(run_command=_report)


def _report(options: argparse.Namespace) -> int:
    for run in options.runs:
        require_run(run)
    from balenas_plugin.report import write_report

    output = options.output or (options.runs[0] / "report.html" if len(options.runs) == 1 else Path("report.html"))
    written = write_report(options.runs, output, pictures=options.png)
    pictures = f", and {len(written) - 1} pictures to {options.png}" if options.png else ""
    print(f"report written to {output}{pictures}")
    return 0

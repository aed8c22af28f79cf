"""`balenas ui` and `balenas report`: watch a search in NNI's web page, and see on a page what searches have done."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

from balenas_plugin.cli.inputs import require_config, require_run
from balenas_plugin.cli.search import add_run_options, print_architectures, resume_command

_EXAMPLES = """\
examples:
  balenas ui configs/quickstart.yml                 search, and watch it at the address that is printed
  balenas ui configs/quickstart.yml --port 8081 --set strategy.candidate_recipe=small     train what it finds
  balenas ui configs/quickstart.yml --resume        go on after a crash or Ctrl-C
  balenas ui --view runs/quickstart                 open the page of a finished search again
"""

_OF_REPORT = """\
examples:
  balenas report runs/quickstart                          writes runs/quickstart/report.html
  balenas report runs/a runs/b runs/c --output compared.html --png pictures

The page is one file that loads nothing. Runs that differ in their seed alone are averaged.
"""


def add_ui(commands: Any, formatter: Any) -> None:
    """Add `balenas ui`."""
    ui = commands.add_parser(
        "ui", help="search, and watch it in NNI's web page", epilog=_EXAMPLES, formatter_class=formatter
    )
    what = ui.add_mutually_exclusive_group(required=True)
    what.add_argument("config", type=Path, nargs="?", metavar="CONFIG.yml", help="what to search, on what, how")
    what.add_argument("--view", metavar="ID|RUN_DIR", help="only open the page of a finished experiment")
    ui.add_argument("--host", default="127.0.0.1", metavar="A", help="served address; 0.0.0.0: all (127.0.0.1)")
    ui.add_argument("--port", type=int, default=8080, metavar="P", help="of the page; 0 takes any free one (8080)")
    ui.add_argument("--url-prefix", metavar="PATH", help="start of the page's path (default: one that nobody guesses)")
    ui.add_argument(
        "--concurrency", type=int, metavar="N", help="trials at a time (1; with --machines, one per machine)"
    )
    ui.add_argument(
        "--machines", type=Path, metavar="FILE", help="train what is found on these machines, reached by ssh"
    )
    ui.add_argument("--close", action="store_true", help="end with the search instead of keeping the page open")
    add_run_options(ui)
    ui.set_defaults(run_command=_ui)


def _ui(options: argparse.Namespace) -> int:
    from balenas_plugin.options import PositiveInt, checked

    if options.concurrency is not None:
        checked("--concurrency", options.concurrency, PositiveInt)
    config_path: Any = options.config and require_config(options.config)
    from balenas_plugin.config import load_config
    from balenas_plugin.run_folder.location import new_run_folder, resumed_run_folder
    from balenas_plugin.signals import stopped_by_signals

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from balenas_plugin.adapters.nni.web.ui import search_in_ui, view_in_ui
    with stopped_by_signals():
        if options.view is not None:
            view_in_ui(options.view, host=options.host, port=options.port, url_prefix=options.url_prefix)
            return 0
        config = load_config(config_path, options.overrides, seed=options.seed)
        resumed = resumed_run_folder(config, options.output) if options.resume else None
        folder = resumed or new_run_folder(config, options.output, overwrite=options.overwrite)
        try:
            search_in_ui(
                config,
                folder,
                host=options.host,
                port=options.port,
                url_prefix=options.url_prefix,
                concurrency=options.concurrency,
                machines=options.machines,
                resume=options.resume,
                show=lambda: print_architectures(folder),
                close=options.close,
            )
        except KeyboardInterrupt:
            if not folder.config.exists():
                raise
            print(f"balenas: stopped. To continue: {resume_command(options, folder)}", file=sys.stderr)
            return 130
        finally:
            folder.release()
    return 0


def add_report(commands: Any, formatter: Any) -> None:
    """Add `balenas report`."""
    report = commands.add_parser(
        "report",
        help="write a page about one run, or several side by side",
        epilog=_OF_REPORT,
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

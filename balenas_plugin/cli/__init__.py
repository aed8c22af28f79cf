"""The `balenas` command: one module a subcommand; each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from balenas_plugin import __version__
from balenas_plugin.cli.auto import add_auto
from balenas_plugin.cli.benchmark import add_benchmark
from balenas_plugin.cli.completion import add_completion
from balenas_plugin.cli.export import add_export
from balenas_plugin.cli.parser import Parser
from balenas_plugin.cli.reference import add_reference
from balenas_plugin.cli.reproduce import add_reproduce
from balenas_plugin.cli.search import add_naslib, add_search
from balenas_plugin.cli.train import add_train
from balenas_plugin.cli.ui import add_report, add_ui
from balenas_plugin.errors import input_problem
from balenas_plugin.machine import let_threads_sleep
from balenas_plugin.signals import kept_interrupts

_EXAMPLES = """\
examples:
  balenas auto --images photos/ --budget 2h       a folder of images in, a tested network and its ONNX file out
  balenas doctor                                  is everything installed that a search needs?
  balenas search configs/quickstart.yml           search on bundled images, minutes on a laptop
  balenas search configs/quickstart.yml --set evaluator.epochs=10 --seed 1 --output runs/trial
  balenas search configs/quickstart.yml --resume  continue the last run of this name after a crash or Ctrl-C
  balenas ui configs/quickstart.yml               the same search, watched in NNI's web page
  balenas export runs/quickstart --samples 100 --proxy synflow --top 10
  balenas train runs/quickstart --recipe small    train the winner from scratch, and say how accurate it is
  balenas report runs/quickstart                  one page that shows the whole search
  balenas reproduce table1 --seeds 0-3            is BaLeNAS better than DARTS? search and see
  balenas methods                                 DARTS, DrNAS, GDAS and the others, and how their parts combine
  balenas latency configs/quickstart.yml          how long does each operation take here? for a search's cost
  balenas spaces                                  what can be searched: sizes, choices, and the ground truth at hand
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml optimizer balenas
  balenas query "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"

exit codes: 0 done, 2 bad input (one message says what and how to cure it), 130 stopped with Ctrl-C,
141 whoever read the output has gone
"""

_DOCTOR = """\
example:
  balenas doctor

exit codes: 0 searches can run (a warning is of something that they can do without), 2 something is broken
"""


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="balenas",
        description="Search neural architectures by learning a distribution over them (BaLeNAS).",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"balenas {__version__}")
    commands = parser.commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    of_runs = (add_auto, add_search, add_ui, add_export, add_report, add_train)
    for add in (*of_runs, add_benchmark, add_reproduce, add_naslib, add_reference, add_completion):
        add(commands, formatter)
    parser.set_defaults(parser=parser)
    doctor = commands.add_parser(
        "doctor",
        help="check the installation and name what is broken, with its cure",
        epilog=_DOCTOR,
        formatter_class=formatter,
    )
    doctor.set_defaults(run_command=_doctor)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = build_parser().parse_args(arguments)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # seconds: a file needs no bar ten times a second
    let_threads_sleep()
    try:
        with kept_interrupts():
            code = int(options.run_command(options))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("balenas: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # of `balenas doctor | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to print at the end
        return 141
    except Exception as error:
        problem = input_problem(error)
        if problem is None:
            raise  # a mistake of ours: its traceback helps to mend it
        print(f"balenas: {problem}", file=sys.stderr)
        return 2


def _doctor(options: argparse.Namespace) -> int:
    from balenas_plugin.doctor import run_doctor

    return run_doctor()

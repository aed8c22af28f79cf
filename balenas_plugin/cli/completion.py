"""`balenas completion`: the script by which a shell completes commands, options, names and files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from balenas_plugin.files import CONFIGS

SHELLS = ("bash", "zsh", "tcsh")
SELECTIONS = (
    "synflow",
    "synflow-enumerated",
    "supernet",
    "synflow+supernet",
    "most-probable",
    "one-batch",
    "one-batch-enumerated",
    "darts-pt",
)

_EXAMPLES = """\
One line in the shell's start file, and Tab completes:
  eval "$(balenas completion bash)"                 in ~/.bashrc
  eval "$(balenas completion zsh)"                  in ~/.zshrc, behind compinit
  balenas completion tcsh | source /dev/stdin       in ~/.tcshrc
"""


def proxies() -> list[str]:
    """Return the names of all that is ranked by; unlike `list_proxies`, without importing torch."""
    own = (Path(__file__).parents[1] / "proxies").glob("[!_]*.py")
    others = (entry.name for entry in entry_points(group="balenas_plugin.proxies"))
    return sorted({*(path.stem for path in own), *others, "supernet_accuracy", "probability"})


NAMES: dict[str, Callable[[], Sequence[str]]] = {
    "proxy": proxies,
    "selection": lambda: SELECTIONS,
    "candidates": lambda: ("sample", "enumerate", "darts-pt"),
    "dataset": lambda: ("cifar10-valid", "cifar10", "cifar100", "ImageNet16-120"),
    "recipe": lambda: sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yml")),
    "scale": lambda: sorted(path.stem for path in (CONFIGS / "reproduce").glob("*.yml")),
}
"""What an option that takes any text is mostly given."""


def add_completion(commands: Any, formatter: Any) -> None:
    """Add `balenas completion`."""
    completion = commands.add_parser(
        "completion", help="print what makes a shell complete this command", epilog=_EXAMPLES, formatter_class=formatter
    )
    completion.add_argument("shell", choices=SHELLS, help="which shell")
    completion.set_defaults(run_command=_completion)


def _completion(options: argparse.Namespace) -> int:
    import shtab

    parser = options.parser
    for action in _actions(parser):
        if action.dest in NAMES:
            action.choices = list(NAMES[action.dest]())
        elif action.type is Path:
            action.complete = shtab.DIRECTORY if "DIR" in str(action.metavar) else shtab.FILE  # type: ignore[attr-defined]  # shtab reads it
    print(shtab.complete(parser, shell=options.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)

"""argparse, with a hint where an option or a command is one that people expect."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from balenas_plugin.errors import nearest, same_word, setting

_COMMANDS = {
    "search": ("run", "start"),
    "train": ("fit", "retrain", "learn"),
    "search CONFIG.yml --resume": ("resume", "continue"),
    "ui": ("web", "watch", "page"),
    "ui --view": ("view", "show"),
    "export": ("rank", "select", "sample", "onnx"),
    "report": ("plot", "draw", "compare", "html"),
    "query": ("lookup", "look-up", "evaluate", "eval"),
    "benchmark import": ("import", "convert"),
    "latency": ("measure", "profile", "latencies"),
    "doctor": ("check", "test", "install"),
}
"""Commands -> what people call them."""

_INVALID_CHOICE = re.compile(r"argument [^:]*: invalid choice: (['\"])(?P<given>.*?)\1 \(choose from (?P<allowed>.*)\)")


class _Commands(argparse._SubParsersAction):  # type: ignore[type-arg]  # generic in the stubs alone
    """Commands whose own help begins with what the list of commands says of each."""

    def add_parser(self, name: str, **options: Any) -> Any:
        """Return the parser of a command."""
        text = str(options["help"])
        return super().add_parser(name, **{"description": f"{text[0].upper()}{text[1:]}.", **options})


class Parser(argparse.ArgumentParser):
    """A parser that says how what was meant is written. Parsers of commands are of this class too."""

    commands: Any = None
    """What `add_subparsers` has returned, in the parser that has commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("action", "parsers", _Commands)

    def parse_args(  # type: ignore[override]  # three overloads: one signature serves them all
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Return the options; exit with code 2 and a hint if one is unknown."""
        given = sys.argv[1:] if args is None else list(args)
        given = [f" {word}" if word.startswith("-|") else word for word in given]  # an architecture is no option
        for word in given:
            if word.startswith("--") and word.endswith("=--"):  # argparse takes it for the end of the options
                self.error(f"argument {word.removesuffix('=--')}: invalid value: '--'")
        options, unknown = self.parse_known_args(given, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown, given, options)}")
        return options

    def error(self, message: str) -> NoReturn:
        """Exit with code 2, the usage and the message, with the nearest of what may be chosen."""
        found = _INVALID_CHOICE.match(message)
        if found is not None:
            given, allowed = found["given"], [word.strip(" '\"") for word in found["allowed"].split(",")]
            message += nearest(given, allowed).rstrip(".") if self.commands is None else _command(given, allowed)
        super().error(message)

    def _hint(self, unknown: Sequence[str], given: Sequence[str], options: argparse.Namespace) -> str:
        """Return "; ..." about the first unknown argument, or an empty text."""
        command = getattr(options, "command", None)
        if command is None or self.commands is None:
            return ""
        own = [option for option in self.commands.choices[command]._option_string_actions if option.startswith("--")]
        name, _, value = unknown[0].partition("=")
        if not name.startswith("--"):
            before = given[: given.index(unknown[0])]
            if before[-2:-1] == ["--set"]:
                return f"; --set takes KEY=VALUE: --set {before[-1]}={unknown[0]}"
            return ""
        meant = next((option for option in own if same_word(option[2:], name[2:])), None)
        place = setting(name[2:])
        if meant is None and place is not None and "--set" in own:
            after = given[given.index(unknown[0]) + 1 :]
            value = value or next((word for word in after[:1] if not word.startswith("-")), "VALUE")
            return f"; {name[2:]} is set with --set {place}={value}"
        return f"; did you mean {meant!r}?" if meant else nearest(name, own).rstrip(".")


def _command(given: str, allowed: Sequence[str]) -> str:
    if given.endswith((".yml", ".yaml")):
        return f"; did you mean `balenas search {given}`?"
    meant = next((command for command, words in _COMMANDS.items() if given.lower() in words), None)
    return f"; did you mean {meant!r}?" if meant else nearest(given, allowed).rstrip(".")

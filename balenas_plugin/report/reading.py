"""Read the folder of a run for a report. Folders come from anywhere: nothing in them is trusted or executed."""

from __future__ import annotations

import csv
import io
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from balenas_plugin.bounded_yaml import MAX_BYTES, NOT_YAML, BoundedLoader, yaml_problem
from balenas_plugin.diagnostics import DiagnosticsLog, read_log
from balenas_plugin.errors import FileFormatError
from balenas_plugin.files import read_text
from balenas_plugin.ground_truth import hidden, metric_in_words
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import SearchSpace, find_space

NOT_KNOWN = "\N{EN DASH}"
"""Stands in the place of what is not there."""

PARETO = "export/pareto.json"
"""Where `balenas export` leaves the candidates and their costs, in the folder of a run."""

_MAX_SETTINGS = 200

_LARGEST = 1e100
"""Larger numbers are taken for damage: no chart could show them beside others."""

_BOUNDED = reprlib.Repr()
_BOUNDED.maxlevel, _BOUNDED.maxlist, _BOUNDED.maxdict, _BOUNDED.maxother = 3, 20, 20, 80
"""Aliases make a YAML file of a kilobyte a list of a billion entries."""


DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "ImageNet16-120": "ImageNet16-120"}
"""Those of ground truth, and what they are called."""


@dataclass(frozen=True)
class Series:
    """Values over epochs; only finite ones, so both may be empty."""

    epochs: list[int]
    values: list[float]

    def __bool__(self) -> bool:
        return bool(self.epochs)


@dataclass(frozen=True)
class RunData:
    """What a report says of a run.

    Args:
        name: of the folder.
        manifest: versions, seed, status.
        settings: the config, as plain containers.
        history: one row an epoch, texts.
        log: the diagnostics; without any for a run that has none.
        architectures: found, best first; none if the search has not ended.
        pareto: what `balenas export` has ranked by cost; None if it has not.
    """

    name: str
    manifest: dict[str, Any]
    settings: dict[str, Any]
    history: list[dict[str, str]]
    log: DiagnosticsLog
    architectures: list[dict[str, Any]]
    pareto: object = None

    @property
    def records(self) -> list[dict[str, Any]]:
        """The diagnostics of each epoch."""
        return self.log.records

    def series(self, *keys: str) -> Series:
        """Return the values at a path of keys in the diagnostics, or in the history's column of that name."""
        pairs = [(record["epoch"], number(at(record, keys))) for record in self.records]
        if all(value is None for _, value in pairs) and len(keys) == 1:
            rows = [(number(row.get("epoch")), number(row.get(keys[0]))) for row in self.history]
            pairs = [(int(epoch), value) for epoch, value in rows if epoch is not None]
        known = [(epoch, value) for epoch, value in pairs if value is not None]
        return Series([epoch for epoch, _ in known], [value for _, value in known])

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        name = at(self.settings, ("strategy", "name")) or self.manifest.get("strategy")
        return name if isinstance(name, str) else "unknown strategy"

    @property
    def space(self) -> SearchSpace:
        """What was searched; one of the user's own is a `SearchSpace()`."""
        return find_space(str(at(self.settings, ("space", "name")))) or SearchSpace()


def read_run(path: Path) -> RunData:
    """Read a run's folder; what a running or older search has not written is left out.

    Raises:
        FileFormatError: it is not the folder of a run, or a file in it is damaged.
    """
    folder = RunFolder(path)
    manifest = folder.read_manifest()
    for written in (folder.history, folder.diagnostics):
        if written.exists():
            folder.require_unchanged(written)
    settings = _settings(folder.config)
    history = _history(folder.history) if folder.history.exists() else []
    log = read_log(folder.diagnostics) if folder.diagnostics.exists() else DiagnosticsLog({}, [])
    architectures = folder.read_architectures() if folder.architectures.exists() else []
    exported = path / PARETO
    pareto = None
    if exported.exists():
        try:
            pareto = json.loads(_text(exported))
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"cannot read {exported}: {error}") from error
    return RunData(path.resolve().name, manifest, settings, history, log, architectures, pareto)


def number(value: object) -> float | None:
    """Return a finite number of a sensible size, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and abs(found) <= _LARGEST else None


def numbers(value: object) -> list[float | None]:
    """Return a list of numbers, None for each that is none; an empty list for anything but a list."""
    return [number(entry) for entry in value] if isinstance(value, list) else []


def at(value: object, keys: Sequence[str]) -> object:
    """Return what nested mappings hold under `keys`, None where there is nothing, or a ground truth that is hidden."""
    if "ground_truth" in keys and hidden():
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def metric_of(record: object, dataset: str) -> str:
    """Return which accuracy of a data set a record's ground truth ranks by, in words; older files have the test's."""
    metric = at(record, ("ground_truth", "ranked_by", dataset))
    return shortened(metric_in_words(metric if isinstance(metric, str) else "test_accuracy"), 40)


def truth_of(record: object, dataset: str) -> float | None:
    """Return the accuracy, see `metric_of`, that a record of architectures.json has of a data set."""
    metric = at(record, ("ground_truth", "ranked_by", dataset))
    return number(at(record, ("ground_truth", "values", dataset, str(metric or "test_accuracy"))))


def flattened(settings: object, where: str = "") -> dict[str, str]:
    """Return dotted name -> value as text, at most 200 of them (a file may hold anything)."""
    found: dict[str, str] = {}
    waiting = [(where, settings)]
    while waiting and len(found) < _MAX_SETTINGS:
        name, value = waiting.pop(0)
        if isinstance(value, Mapping) and name.count(".") < 8:
            waiting[:0] = [(f"{name}.{key}" if name else str(key), entry) for key, entry in list(value.items())[:100]]
        else:
            found[name] = shortened(str(value) if isinstance(value, str | int | float) else _BOUNDED.repr(value), 200)
    return found


def shortened(text: str, length: int) -> str:
    """Return `text` in one line of at most `length` characters, all of them visible."""
    line = " ".join(text[: 4 * length].split())
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return line if len(line) <= length else line[: length - 1] + "…"


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read {path}: {error}") from error


def _settings(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(read_text(path, most=MAX_BYTES), Loader=BoundedLoader)  # a SafeLoader
    except (OSError, *NOT_YAML) as error:
        raise FileFormatError(f"cannot read {path}: {yaml_problem(error)}") from error
    if not isinstance(document, dict):
        raise FileFormatError(f"{path} is not the config of a run")
    return document


def _history(path: Path) -> list[dict[str, str]]:
    whole = _text(path).rpartition("\n")[0]  # a row that a kill cut short has no end
    try:
        rows = list(csv.DictReader(io.StringIO(whole)))
    except csv.Error as error:
        raise FileFormatError(f"{path} is not the history of a run: {error}") from error
    return [{str(key): value for key, value in row.items() if isinstance(value, str)} for row in rows]


def in_one_line(value: object) -> str:
    """Return a value as short text: JSON without quotes around texts."""
    return shortened(value if isinstance(value, str) else json.dumps(value, default=str), 120)

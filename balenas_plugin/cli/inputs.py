"""Whether the files and folders of a command line are there, found out before torch is imported."""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path

from balenas_plugin.errors import OptionError, nearest
from balenas_plugin.files import CONFIGS, expanded

_COUNTED = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


def read_limit(name: str, text: str | None) -> float | None:
    """Return the number of "1M", "300k", "1e6" or "250,000"; of max_latency, that of "5" or "5ms"; None as it is.

    Raises:
        OptionError: it is none of these; the message names the option.
    """
    if text is None:
        return None
    units = {"": 1.0, "ms": 1.0} if name == "max_latency" else _COUNTED
    given = re.sub(r"[,\s]", "", text.lower())
    found = re.fullmatch(r"((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)([a-z]*)", given)
    number = float(found[1]) * units.get(found[2], math.nan) if found else math.nan
    if not 0 < number < math.inf:
        example = "5 or 5ms" if name == "max_latency" else "300k, 1M, 1e6 or 250000"
        raise OptionError(f"--{name.replace('_', '-')} must be a number above 0 such as {example}, got {text!r}")
    return number


def require_file(path: Path, what: str) -> None:
    """Raise unless there is a file at `path`.

    Raises:
        OptionError: there is none; the message names one beside it that is nearly called so.
    """
    place = expanded(path)
    if os.path.isfile(place):  # noqa: PTH113 - pathlib's raises where a folder may not be looked into
        return
    problem = _problem(place) or ("Is a directory" if place.is_dir() else "it is no regular file")
    raise OptionError(f"cannot read {what} {path}: {problem}")


def require_table(path: Path | None) -> None:
    """Raise if a table of ground truth is only mistyped; of one that is nowhere, its space says where it comes from.

    Raises:
        OptionError: there is nothing at `path`, and one beside it is nearly called so.
    """
    problem = "" if path is None else _problem(expanded(path))
    if path is not None and problem and _nearly_called(expanded(path)):
        raise OptionError(f"there is no table {path}: {problem}")


def require_config(path: Path) -> Path:
    """Return the YAML file of a search: at `path`, or shipped in configs/ under that name (without .yml).

    Raises:
        OptionError: there is no such file, or it is a script or a run's folder.
    """
    shipped = CONFIGS / f"{path}.yml"
    if _problem(expanded(path)) and shipped.is_file():
        return shipped
    if not _problem(path / "manifest.json"):
        raise OptionError(
            f"{path} is the folder of a run, not a config. To go on with it: balenas search {path / 'config.yml'} "
            f"--output {path} --resume. To see what it has found: balenas report {path}"
        )
    require_file(path, "the config")
    if path.suffix in (".py", ".ipynb"):
        raise OptionError(
            f"{path} is a program, not a config. Run a script that makes a NasExperiment itself: `python {path}`; or "
            "write a YAML file whose `space: module:Class` names your model space: see configs/"
        )
    return path


def require_run(path: Path) -> None:
    """Raise unless `path` is the folder of a run.

    Raises:
        OptionError: it is not.
    """
    problem = _problem(path) or ("" if path.is_dir() else "it is a file")
    if problem:
        raise OptionError(f"there is no folder {path}: {problem}")
    problem = _problem(path / "manifest.json").partition(";")[0]  # what else is in the folder does not matter
    if problem:
        inside = sorted(found.parent for found in path.glob("*/manifest.json"))
        hint = f" There are runs in it: {', '.join(map(str, inside[:3]))}" if inside else ""
        raise OptionError(f"cannot read {path / 'manifest.json'}: {problem}. Is {path} the folder of a run?{hint}")


def _problem(path: Path) -> str:
    """Return why there is nothing at `path`, with what is nearly called so; an empty text if there is something."""
    try:
        path.stat()
    except OSError as error:
        return f"{error.strerror}{_nearly_called(path)}"
    return ""


def _nearly_called(path: Path) -> str:
    with contextlib.suppress(OSError):
        return nearest(str(path), [str(path.with_name(other.name)) for other in path.parent.iterdir()]).removesuffix(
            "."
        )
    return ""

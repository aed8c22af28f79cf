"""Choose the folder of a run: never one that holds another, unless that is asked for."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from balenas_plugin.config import SearchConfig
from balenas_plugin.errors import FileFormatError, OptionError, StorageError
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.run_folder.marker import RunMarker

_RUNS = Path("runs")

FOLDER_VARIABLE = "BALENAS_RUN_FOLDER"
"""Environment variable in which the first process of a search gives those that it starts the folder of the run."""

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
"""Environment variables in which Lightning, torchrun and Slurm number the processes of a search; the first has 0."""


def helps_another(config: SearchConfig) -> bool:
    """Return whether this process was started to search together with a first one, on several devices."""
    trainer = config.evaluator.trainer
    several = any(trainer.get(option, 1) not in (1, "1") for option in ("devices", "num_nodes"))
    return several and not is_first_process()


def is_first_process() -> bool:
    """Return whether this process is the first of those that work together, or the only one."""
    return all(os.environ.get(name, "0") in ("", "0") for name in _RANKS)


def shared_run_folder(output: Path | None) -> RunFolder:
    """Return the folder of the run that this process helps with; the first process looks after it.

    Raises:
        OptionError: the processes were started by something else than the first one, and without --output.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    if given is None and output is None:
        raise OptionError(
            "a search whose processes are started by torchrun or Slurm needs --output DIR, the same for all of them"
        )
    return RunFolder(Path(given) if given is not None else output)  # type: ignore[arg-type]  # one of them is given


def new_run_folder(config: SearchConfig, output: Path | None, *, overwrite: bool) -> RunFolder:
    """Return a folder for a new run: `output`, or the first free of runs/<name>, runs/<name>-2, ...

    The latter is created at once, so that two searches started together do not choose the same. A folder in which a
    search was killed before it began counts as empty.

    Raises:
        OptionError: `output` has something in it, and overwriting was not asked for; or there is nothing to overwrite.
        StorageError: the folder cannot be created.
    """
    if output is None:
        if overwrite:
            raise OptionError("--overwrite needs --output DIR, the run to replace")
        return RunFolder(_claim(config.name))
    if not _occupied(output) or _left_by_a_kill(output):
        return RunFolder(output, replaces=RunMarker(output).replacing)
    if not overwrite:
        raise OptionError(
            f"{output} exists and is not empty: --resume continues the run in it, --overwrite replaces it, another "
            "--output leaves it alone"
        )
    if not RunMarker(output).present:  # of a version that wrote none?
        try:
            RunFolder(output).read_manifest()
        except FileFormatError as error:
            raise OptionError(f"{output} is not the folder of a run, so --overwrite will not delete it") from error
    return RunFolder(output, replaces=True)


def _left_by_a_kill(path: Path) -> bool:
    """Return whether a search was killed there before it began: while it replaced another, or wrote its first files."""
    return RunMarker(path).replacing or (RunMarker(path).present and not RunFolder(path).begun)


def _claim(name: str) -> Path:
    for n in count(1):
        path = _RUNS / (name if n == 1 else f"{name}-{n}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise StorageError(f"cannot create the folder of the run: {error}. Choose another: --output.") from error
        return path
    raise AssertionError("count never ends")


def resumed_run_folder(config: SearchConfig, output: Path | None) -> RunFolder:
    """Return the folder to resume: `output`, or the latest of runs/<name>, runs/<name>-2, ...

    Raises:
        OptionError: there is no such folder, or it was started with another config.
    """
    if output is None:
        first = _RUNS / config.name
        numbered = {
            int(number): path
            for path in _RUNS.glob(f"{config.name}-*")
            if (number := path.name.removeprefix(f"{config.name}-")).isdecimal()
        }
        runs = {n: path for n, path in {**numbered, 1: first}.items() if _occupied(path) and _named(config.name, path)}
        if not runs:
            raise OptionError(f"there is no run {first} to resume; leave out --resume to start it")
        output = runs[max(runs)]
    elif not _occupied(output):
        raise OptionError(f"there is no run in {output} to resume; leave out --resume to start it")
    folder = RunFolder(output, replaces=RunMarker(output).replacing)
    if not _left_by_a_kill(output) or (folder.config.exists() and not folder.replaces):
        folder.require_same_config(config)
    return folder


def _named(name: str, path: Path) -> bool:
    """Return whether the run in `path` is of a config of that name: runs/exp-2 may be the first of one named exp-2."""
    try:
        return bool(RunFolder(path).read_manifest().get("name", name) == name)
    except FileFormatError:  # what is wrong with it is reported when it is resumed
        return True


def _occupied(path: Path) -> bool:
    try:
        return (path.exists() or path.is_symlink()) and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:  # its name is too long, or it may not be read
        raise StorageError(f"cannot look into the folder {path}: {error.strerror}. Choose another --output.") from error

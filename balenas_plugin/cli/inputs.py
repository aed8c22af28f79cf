"""Whether the files and folders of a command line are there, found out before torch is imported."""

from __future__ import annotations

from pathlib import Path

from balenas_plugin.errors import OptionError, nearest


def require_file(path: Path, what: str) -> None:
    """Raise unless there is a file at `path`: looked at before anything heavy is imported.

    Raises:
        OptionError: there is none; the message names one beside it that is nearly called so.
    """
    path = path.expanduser()
    if path.is_file():
        return
    reason = "it is a folder" if path.is_dir() else "it is no regular file" if path.exists() else _missing(path)
    raise OptionError(f"cannot read {what} {path}: {reason}")


def require_table(path: Path | None) -> None:
    """Raise unless `path` can be a table of ground truth, or the folder of one; None is another matter.

    Raises:
        OptionError: there is nothing.
    """
    if path is not None and not path.expanduser().exists():
        raise OptionError(
            f"there is no table {path}: {_missing(path.expanduser())}. Make one with `balenas benchmark import FILE`."
        )


def require_config(path: Path) -> None:
    """Raise unless `path` can be the YAML file of a search.

    Raises:
        OptionError: there is no such file, or it is a script or a run's folder.
    """
    if (path / "manifest.json").is_file():
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


def require_run(path: Path) -> None:
    """Raise unless `path` is the folder of a run.

    Raises:
        OptionError: it is not.
    """
    if not path.is_dir():
        raise OptionError(f"there is no folder {path}: {'it is a file' if path.exists() else _missing(path)}")
    manifest = path / "manifest.json"
    if not manifest.exists():
        inside = sorted(found.parent for found in path.glob("*/manifest.json"))
        hint = f" There are runs in it: {', '.join(map(str, inside[:3]))}" if inside else ""
        raise OptionError(f"cannot read {manifest}: No such file or directory. Is {path} the folder of a run?{hint}")


def _missing(path: Path) -> str:
    beside = [str(path.with_name(other.name)) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(str(path), beside)
    return "No such file or directory" + ("" if hint == "." else hint)

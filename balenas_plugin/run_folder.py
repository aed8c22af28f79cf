"""The folder of a run: what was asked, what happened, what was found.

config.yml           the resolved config
manifest.json        versions, seed, command, times, data
history.csv          one row an epoch
diagnostics.jsonl    one JSON object an epoch (see diagnostics/log_file.py)
posterior.json       the posterior after the last epoch
architectures.json   the architectures found
checkpoints/         from which the search resumes
logs/                Lightning's logger
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from balenas_plugin.config import SearchConfig, yaml_problem
from balenas_plugin.errors import FileFormatError, OptionError, StorageError
from balenas_plugin.files import refused_writes_told, write_text_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK_SECONDS = 10.0

_PACKAGES = ("balenas-plugin", "nni", "torch", "torchvision", "pytorch-lightning", "numpy", "scikit-learn")


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run.

    Args:
        path: of the folder.
        replaces: whether another run is in it, to be deleted when this one starts.
    """

    path: Path
    replaces: bool = False

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yml"

    @property
    def manifest(self) -> Path:
        """Versions, seed, command, times."""
        return self.path / "manifest.json"

    @property
    def history(self) -> Path:
        """One row an epoch."""
        return self.path / "history.csv"

    @property
    def diagnostics(self) -> Path:
        """One JSON object an epoch."""
        return self.path / "diagnostics.jsonl"

    @property
    def posterior(self) -> Path:
        """The posterior."""
        return self.path / "posterior.json"

    @property
    def architectures(self) -> Path:
        """The architectures found."""
        return self.path / "architectures.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoint."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """Folder of Lightning's logger."""
        return self.path / "logs"

    def start(self, config: SearchConfig, *, resumed: bool, **entries: Any) -> None:
        """Write the config, and a manifest that says the search is running.

        Args:
            config: of the run.
            resumed: whether the folder's run is continued.
            entries: further entries of the manifest.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.replaces:
                self._empty()
        except OSError as error:
            raise StorageError(f"cannot create the folder of the run: {error}. Choose another --output.") from error
        write_text_atomically(self.config, config.to_yaml())
        manifest = self.read_manifest() if resumed and self.manifest.exists() else {}
        manifest.pop("error", None)
        started = {
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "started": _now(),
            "resumed": resumed,
        }
        manifest.update(
            status="running",
            name=config.name,
            seed=config.seed,
            strategy=config.strategy["name"],
            versions={"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
            machine={"platform": platform.platform(), "cpus": os.cpu_count()},
            sessions=[*manifest.get("sessions", []), started],
            **entries,
        )
        self._write_manifest(manifest)

    def _empty(self) -> None:
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from searching in the folder during the block; the system ends it with the process.

        Raises:
            OptionError: another process searches in it.
            StorageError: it cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise StorageError(f"cannot create the folder of the run: {error}. Choose another --output.") from error
        try:
            _lock(lock, self.path)
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def recorded(self) -> Iterator[dict[str, Any]]:
        """Record in the manifest how the block ends, and when; the block may add entries to what is yielded.

        Raises:
            StorageError: the disk is full, or refuses a file.
        """
        entries: dict[str, Any] = {"status": "finished"}
        try:
            with refused_writes_told(self.path):
                yield entries
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            with contextlib.suppress(StorageError, FileFormatError):  # the error itself is what matters
                self._end("interrupted" if interrupted else "failed", None if interrupted else error)
            raise
        self._end(**entries)

    def _end(self, status: str, error: BaseException | None = None, **entries: Any) -> None:
        manifest = self.read_manifest()
        manifest.update(status=status, **entries)
        if error is not None:
            manifest["error"] = f"{type(error).__name__}: {error}"
        manifest["sessions"][-1]["ended"] = _now()
        self._write_manifest(manifest)

    def release(self) -> None:
        """Remove the folder if nothing was written to it."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def read_manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            FileFormatError: it is missing or damaged.
        """
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise FileFormatError(
                f"cannot read {self.manifest}: {error}. Is {self.path} the folder of a run?"
            ) from error
        if not isinstance(manifest, dict) or not isinstance(manifest.get("sessions"), list):
            raise FileFormatError(f"{self.manifest} is not the manifest of a run")
        return manifest

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_text_atomically(self.manifest, json.dumps(manifest, indent=1) + "\n")

    @property
    def finished(self) -> bool:
        """Whether the search ended."""
        return self.manifest.exists() and self.read_manifest().get("status") == "finished"

    def read_architectures(self) -> list[dict[str, Any]]:
        """Read the architectures found.

        Raises:
            FileFormatError: the file is missing or damaged.
        """
        try:
            records = json.loads(self.architectures.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise FileFormatError(f"cannot read {self.architectures}: {error}. Was its search finished?") from error
        keys = {"rank", "choices", "notation"}
        if not isinstance(records, list) or not all(isinstance(r, dict) and keys <= set(r) for r in records):
            raise FileFormatError(f"{self.architectures} does not hold the architectures of a run")
        return records

    def read_config(self) -> SearchConfig:
        """Read the config that the run was started with.

        Raises:
            FileFormatError: it is missing or damaged.
        """
        try:
            return SearchConfig.from_dict(yaml.safe_load(self.config.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError, RecursionError) as error:
            raise FileFormatError(
                f"cannot read {self.config}: {yaml_problem(error)}. Is {self.path} the folder of a run?"
            ) from error

    def require_same_config(
        self, config: SearchConfig, *, resolve: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    ) -> None:
        """Raise unless the folder was started with an equal config.

        Args:
            config: to compare with the folder's, in which the defaults of the strategy are filled in.
            resolve: fills them in. None: options of the strategy that one of the two leaves out are not compared, since
                only the framework of the strategy knows its defaults, and importing that takes seconds.

        Raises:
            OptionError: the configs differ; the message names where.
            FileFormatError: the folder's config is missing or damaged.
        """
        before, now = self.read_config().to_dict(), yaml.safe_load(config.to_yaml())
        if resolve is not None:
            before["strategy"] = yaml.safe_load(yaml.safe_dump(resolve(before["strategy"])))
        elif before["strategy"]["name"] == now["strategy"]["name"]:
            both = before["strategy"].keys() & now["strategy"].keys()
            before["strategy"], now["strategy"] = ({key: one["strategy"][key] for key in both} for one in (before, now))
        differences = list(_differences(before, now))
        if differences:
            raise OptionError(
                f"{self.path} was started with another config: {'; '.join(differences)}. Resume with the config it was "
                "started with, or start a new run in another folder (--output)."
            )


def _lock(descriptor: int, path: Path) -> None:
    """Lock a folder; processes that a killed search had forked hold its lock until they notice, so try for a while."""
    if fcntl is None:  # a system without such locks
        return None
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise OptionError(
                    f"another process is searching in {path}: wait until it ends, stop it, or choose another --output"
                ) from error
            time.sleep(0.1)
        except OSError:  # a file system without such locks
            return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _differences(before: Any, now: Any, where: str = "") -> Any:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(set(before) | set(now), key=str):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    elif before != now:
        yield f"{where} was {before!r}, is {now!r}"

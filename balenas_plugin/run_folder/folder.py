"""The folder of a run: what was asked, what happened, what was found.

config.yml           the resolved config
manifest.json        versions, seed, command, times, data
history.csv          one row an epoch
diagnostics.jsonl    one JSON object an epoch (see diagnostics/log_file.py)
posterior.json       the posterior after the last epoch
architectures.json   the architectures found
checkpoints/         from which the search resumes
logs/                Lightning's logger
.balenas-run         written before all others: says that the folder is a run's, and is locked while one searches in it
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from balenas_plugin.bounded_yaml import MAX_BYTES, NOT_YAML, BoundedLoader, yaml_problem
from balenas_plugin.config import SearchConfig, differences
from balenas_plugin.errors import FileFormatError, OptionError, StorageError
from balenas_plugin.files import open_regular, read_text, refused_writes_reported, temporary_of, write_text_atomically
from balenas_plugin.machine import spent
from balenas_plugin.run_folder.marker import RunMarker

_LOCK_SECONDS = 10.0

_ELSEWHERE = ("root", "download", "num_workers", "on_device")
"""Options of the data that may differ where a run is continued on another machine."""

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
    _manifest_seen: list[tuple[int, int] | None] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_manifest_seen", [self._manifest_stamp()])

    @property
    def marker(self) -> RunMarker:
        """Says that the folder is a run's, and is locked by the process that searches in it."""
        return RunMarker(self.path)

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
        self.prepare(config, resumed=resumed)
        manifest = self.read_manifest() if resumed and self.manifest.exists() else {}
        for of_an_end in ("error", "sha256"):
            manifest.pop(of_an_end, None)
        started = {
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "directory": str(Path.cwd()),
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

    def prepare(self, config: SearchConfig, *, resumed: bool) -> None:
        """Mark the folder as a run's, delete the run that it replaces, and write the config of a new one.

        A kill in between is made good by whatever comes next: the marker says that the folder is to be emptied.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.replaces:
                self.marker.write(replacing=True)
                self._empty()
            self.marker.write(replacing=False)
        except OSError as error:
            raise StorageError(f"cannot create the folder of the run: {error}. Choose another --output.") from error
        if not resumed or not self.config.exists():
            write_text_atomically(self.config, config.to_yaml())

    def _empty(self) -> None:
        for path in self.path.iterdir():
            if path == self.marker.path:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    @property
    def begun(self) -> bool:
        """Whether there is more than what a search writes before it begins."""
        before = (self.marker.path.name, self.config.name)
        return any(path.name not in before and not temporary_of(path.name) for path in self.path.iterdir())

    def kept(self) -> contextlib.AbstractContextManager[None]:
        """Keep other commands that would search in the folder out during the block; raises what `claimed` does."""
        return self.marker.locked(_LOCK_SECONDS, folder=True)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from searching in the folder during the block; the system ends it with the process.

        Raises:
            OptionError: another process searches in it, or has done so since this object was made.
            StorageError: it cannot be created.
        """
        with self.marker.locked(_LOCK_SECONDS):
            if self._manifest_stamp() != self._manifest_seen[0]:
                raise OptionError(
                    f"another process has searched in {self.path} meanwhile: look at what is there, then use --resume, "
                    "--overwrite or another --output"
                )
            yield

    def _manifest_stamp(self) -> tuple[int, int] | None:
        """Return what distinguishes one manifest from the next, None where there is none."""
        try:
            status = self.manifest.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    @contextlib.contextmanager
    def recorded(self) -> Iterator[dict[str, Any]]:
        """Record in the manifest how the block ends, and when; the block may add entries to what is yielded.

        Raises:
            StorageError: the disk is full, or refuses a file.
        """
        entries: dict[str, Any] = {"status": "finished"}
        try:
            with refused_writes_reported(self.path):
                yield entries
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            with contextlib.suppress(OSError, FileFormatError):  # the error itself is what matters
                self._end("interrupted" if interrupted else "failed", None if interrupted else error)
            raise
        self._end(**entries)

    def _end(self, status: str, error: BaseException | None = None, **entries: Any) -> None:
        manifest = self.read_manifest()
        manifest.update(status=status, **entries)
        if error is not None:
            manifest["error"] = f"{type(error).__name__}: {error}"
        else:
            written = (self.posterior, self.diagnostics, self.history, self.architectures)
            manifest["sha256"] = {path.name: _sha256(path) for path in written if path.exists()}
        manifest["sessions"][-1].update(ended=_now(), **spent())
        self._write_manifest(manifest)

    def require_unchanged(self, path: Path) -> None:
        """Raise if the manifest of a finished run knows another content of one of its files.

        Raises:
            FileFormatError: the file is damaged, edited, or of another run.
        """
        known = self.read_manifest().get("sha256") if self.manifest.exists() else None
        expected = known.get(path.name) if isinstance(known, Mapping) else None
        try:
            found = None if expected is None else _sha256(path)
        except OSError as error:
            raise FileFormatError(f"cannot read {path}: {error}. Was its search finished?") from error
        if found != expected:
            raise FileFormatError(
                f"{path} is not what the search wrote: its SHA-256 differs from the one in {self.manifest}. It is "
                "damaged, edited, or of another run; put the right one back."
            )

    def write_architectures(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the architectures found, or what is known of them since; the manifest of a finished run follows."""
        manifest = self.read_manifest() if self.manifest.exists() else {}
        if manifest.get("sha256", {}).pop(self.architectures.name, None) is not None:
            self._write_manifest(manifest)  # a kill in between leaves a file that is not compared
        write_text_atomically(self.architectures, json.dumps(records, indent=1) + "\n")
        if "sha256" in manifest:
            manifest["sha256"][self.architectures.name] = _sha256(self.architectures)
            self._write_manifest(manifest)

    def release(self) -> None:
        """Remove the folder if nothing was written to it, and no other command is about to."""
        with contextlib.suppress(OSError, OptionError), self.marker.locked(0, folder=True):
            self.path.rmdir()

    def read_manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            FileFormatError: it is missing or damaged.
        """
        try:
            manifest = json.loads(read_text(self.manifest))
        except (OSError, ValueError, RecursionError) as error:
            raise FileFormatError(
                f"cannot read {self.manifest}: {error}. Is {self.path} the folder of a run?"
            ) from error
        if not isinstance(manifest, dict) or not isinstance(manifest.get("sessions"), list):
            raise FileFormatError(f"{self.manifest} is not the manifest of a run")
        return manifest

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_text_atomically(self.manifest, json.dumps(manifest, indent=1) + "\n")
        self._manifest_seen[0] = self._manifest_stamp()

    @property
    def finished(self) -> bool:
        """Whether the search ended."""
        return not self.replaces and self.manifest.exists() and self.read_manifest().get("status") == "finished"

    @property
    def started_here(self) -> bool:
        """Whether a session of the run was started in the working directory."""
        sessions = self.read_manifest()["sessions"] if self.manifest.exists() else []
        return any(isinstance(session, dict) and session.get("directory") == str(Path.cwd()) for session in sessions)

    def read_architectures(self) -> list[dict[str, Any]]:
        """Read the architectures found.

        Raises:
            FileFormatError: the file is missing, damaged, or not what the search wrote.
        """
        self.require_unchanged(self.architectures)
        try:
            records = json.loads(read_text(self.architectures))
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
            document = yaml.load(read_text(self.config, most=MAX_BYTES), Loader=BoundedLoader)  # a SafeLoader
            return SearchConfig.from_dict(document)
        except (OSError, *NOT_YAML) as error:
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
        before, now = _plain(self.read_config()), _plain(config)
        if resolve is not None:
            before["strategy"] = _json(resolve(before["strategy"]))
        elif before["strategy"]["name"] == now["strategy"]["name"]:
            both = before["strategy"].keys() & now["strategy"].keys()
            before["strategy"], now["strategy"] = ({key: one["strategy"][key] for key in both} for one in (before, now))
        different = differences(before, now)
        if different:
            raise OptionError(
                f"{self.path} was started with another config: {different}. Resume with the config it was "
                "started with, or start a new run in another folder (--output)."
            )


def run_identity(config: SearchConfig) -> dict[str, Any]:
    """Return what a checkpoint keeps of the run that it is of, as plain values."""
    return {"config": _plain(config)}


def other_run(config: SearchConfig, recorded: Mapping[str, Any]) -> str:
    """Return in words how a run with this config differs from the one that a checkpoint is of; nothing if it is that.

    Args:
        config: of the run.
        recorded: a `run_identity`, or something else that a checkpoint may hold.
    """
    try:
        before = _plain(SearchConfig.from_dict(recorded["config"]))  # with the defaults of this version
    except (KeyError, TypeError, ValueError, AttributeError):
        return "it is of a run without a config, or of another version"
    now = _plain(config)
    for document in (before, now):
        for option in _ELSEWHERE:
            document["data"].pop(option, None)
    return differences(before, now)


def _plain(config: SearchConfig) -> dict[str, Any]:
    """Return a config as what JSON can hold, and so a checkpoint."""
    return _json(config.to_dict())


def _json(document: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(document, default=str)))


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

"""The folder of a run: what was asked, what happened, what was found.

config.yml           the resolved config
manifest.json        versions, seed, command, times, data
history.csv          one row an epoch
posterior.json       the posterior after the last epoch
architectures.json   the architectures found
checkpoints/         from which the search resumes
logs/                Lightning's logger
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from balenas_plugin.config import SearchConfig
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.files import write_text_atomically

_PACKAGES = ("balenas-plugin", "nni", "torch", "torchvision", "pytorch-lightning", "numpy", "scikit-learn")


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run."""

    path: Path

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

    def start(self, config: SearchConfig, *, resumed: bool) -> None:
        """Write the config, and a manifest that says the search is running."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.config, config.to_yaml())
        manifest = self.read_manifest() if resumed and self.manifest.exists() else {}
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
        )
        self._write_manifest(manifest)

    def update_manifest(self, **entries: Any) -> None:
        """Add entries to the manifest, and the time to its last session."""
        manifest = self.read_manifest()
        manifest.update(entries)
        manifest["sessions"][-1]["ended"] = _now()
        self._write_manifest(manifest)

    def read_manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            FileFormatError: it is missing or damaged.
        """
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
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

    def read_config(self) -> SearchConfig:
        """Read the config that the run was started with.

        Raises:
            FileFormatError: it is missing or damaged.
        """
        try:
            return SearchConfig.from_dict(yaml.safe_load(self.config.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
            raise FileFormatError(f"cannot read {self.config}: {error}. Is {self.path} the folder of a run?") from error

    def require_same_config(self, config: SearchConfig) -> None:
        """Raise unless the folder was started with an equal config.

        Raises:
            OptionError: the configs differ; the message names where.
            FileFormatError: the folder's config is missing or damaged.
        """
        differences = list(_differences(self.read_config().to_dict(), yaml.safe_load(config.to_yaml())))
        if differences:
            raise OptionError(
                f"{self.path} was started with another config: {'; '.join(differences)}. Resume with the config it was "
                "started with, or start a new run in another folder (--output)."
            )


def new_run_folder(config: SearchConfig, output: Path | None, *, overwrite: bool) -> RunFolder:
    """Return a folder for a new run: `output`, or the first free of runs/<name>, runs/<name>-2, ...

    Raises:
        OptionError: `output` has something in it, and overwriting was not asked for.
    """
    if output is None:
        base = Path("runs")
        names = (config.name if n == 1 else f"{config.name}-{n}" for n in count(1))
        return RunFolder(next(base / name for name in names if not _occupied(base / name)))
    if _occupied(output):
        if not overwrite:
            raise OptionError(
                f"{output} exists and is not empty: --resume continues the run in it, --overwrite replaces it, another "
                "--output leaves it alone"
            )
        if not (output / "manifest.json").is_file():
            raise OptionError(f"{output} is not the folder of a run, so --overwrite will not delete it")
        shutil.rmtree(output)
    return RunFolder(output)


def resumed_run_folder(config: SearchConfig, output: Path | None) -> RunFolder:
    """Return the folder to resume: `output`, or the latest of runs/<name>, runs/<name>-2, ...

    Raises:
        OptionError: there is no such folder, or it was started with another config.
    """
    if output is None:
        base = Path("runs")
        existing = [base / config.name] if _occupied(base / config.name) else []
        for n in count(2):
            if not _occupied(base / f"{config.name}-{n}"):
                break
            existing.append(base / f"{config.name}-{n}")
        if not existing:
            raise OptionError(f"there is no run {base / config.name} to resume; leave out --resume to start it")
        output = existing[-1]
    elif not _occupied(output):
        raise OptionError(f"there is no run in {output} to resume; leave out --resume to start it")
    folder = RunFolder(output)
    folder.require_same_config(config)
    return folder


def _occupied(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


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

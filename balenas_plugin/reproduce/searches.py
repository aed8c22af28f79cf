"""The searches of a reproduction: runs like any other, in folders that tables and figures share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from balenas_plugin.config import SearchConfig
from balenas_plugin.files import write_text_atomically
from balenas_plugin.reproduce.progress import Key
from balenas_plugin.reproduce.units import Unit
from balenas_plugin.run_folder import RunFolder


@dataclass(frozen=True, eq=False)
class Search(Unit):
    """One search with one seed.

    Args:
        config: of the search.
        folder: of its run.
    """

    config: SearchConfig
    folder: RunFolder

    called: ClassVar[str] = "search"
    plural: ClassVar[str] = "searches"

    @property
    def path(self) -> Path:
        """Folder of its run."""
        return self.folder.path

    @property
    def key(self) -> Key:
        """Its name and seed."""
        return self.config.name, f"seed {self.config.seed}"

    @property
    def epochs(self) -> int:
        """Those of the config."""
        return self.config.evaluator.epochs

    @property
    def history(self) -> Path:
        """That of the run."""
        return self.folder.history

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self.folder.finished

    def require_same(self) -> None:
        """Raise if the run was started with another config.

        Raises:
            OptionError: it was.
        """
        if self.folder.config.exists():
            self.folder.require_same_config(self.config)

    def command(self) -> list[Any]:
        """Write the config; return the words that begin the search, or go on with it."""
        config = self.path.with_suffix(".yml")
        write_text_atomically(config, self.config.to_yaml())
        resumed = ["--resume"] if self.folder.config.exists() else []
        return ["search", config, "--output", self.path, *resumed]

    def costs(self) -> dict[str, float]:
        """Return what it took, by the names of `COSTS`; nothing where an older version, or a kill, left no record."""
        sessions = self.folder.read_manifest()["sessions"]
        if not all({"cpu_seconds", "peak_bytes"} <= session.keys() for session in sessions):
            return {}
        seconds = sum(session["cpu_seconds"] for session in sessions)
        return {"cpu_seconds": seconds, "peak_megabytes": max(session["peak_bytes"] for session in sessions) / 1e6}


def searches_of(output: Path, configs: Sequence[SearchConfig]) -> list[Search]:
    """Return the searches with their folders, `output`/searches/<name>/seed-<k>."""
    return [Search(config, RunFolder(output / "searches" / config.name / f"seed-{config.seed}")) for config in configs]

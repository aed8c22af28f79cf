"""Ground truth of NAS-Bench-1Shot1: the accuracies of NAS-Bench-101, which a user must have; none ships."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from balenas_plugin.benchmarks import Benchmark
from balenas_plugin.errors import DataError, OptionError, SpaceError
from balenas_plugin.files import expanded

from . import SPACES, ModuleSpec, NasBench1Shot1Space
from .nasbench101_files import RUNS, Trained, read_modules, write_modules

TABLE_FILE = "nb1shot1.parquet"
OFFICIAL_FILES = ("nasbench101.db", "nasbench_only108.tfrecord", "nasbench_full.tfrecord")

WHERE = (
    "NAS-Bench-101's accuracies do not ship with this package. Get nasbench_only108.tfrecord (499 MB) from "
    "https://github.com/google-research/nasbench, or NNI's nasbench101.db by "
    "`python -c \"from nni.nas.benchmark import download_benchmark; download_benchmark('nasbench101')\"`; then "
    f"`balenas benchmark import FILE` once, and put {TABLE_FILE} where BALENAS_DATA says, or say --table"
)

DATASET = "cifar10"
_VALID, _TEST, _PARAMETERS = "valid_accuracy", "test_accuracy", "params_m"


class OneShotBenchmark(Benchmark):
    """The trainings of 108 epochs of a space's networks; accuracies are the means of up to three, in percent.

    Args:
        space: which of the three.
        name: what the numbers come from.
        found: hash -> what is known; modules of other spaces are left out.
    """

    def __init__(self, space: NasBench1Shot1Space, name: str, found: Mapping[str, Trained]) -> None:
        self.space, self._space, self._name = space.name, space, name
        blocks = space.blocks
        self._rows: dict[Any, int] = {}
        self._trained: list[Trained] = []
        self._specs: list[ModuleSpec] = []
        self._hashes: list[str] = []
        for module, trained in found.items():
            spec = trained.spec
            if spec is None:
                wiring = blocks.by_hash.get(module)
                spec = None if wiring is None else wiring.spec()
            if spec is not None and blocks.includes(spec.pruned()):
                self._rows[spec.key()] = len(self._trained)
                self._trained.append(trained)
                self._specs.append(spec)
                self._hashes.append(module)
        self._by_hash = {module: row for row, module in enumerate(self._hashes)}
        self._means = {_VALID: _means(t.valid for t in self._trained), _TEST: _means(t.test for t in self._trained)}
        ranked = _VALID if np.isnan(self._means[_TEST]).all() else _TEST
        self.ranked_by = {DATASET: ranked}

    @property
    def name(self) -> str:
        """Return what the numbers come from."""
        return self._name

    @property
    def positions(self) -> Collection[str]:
        """Return the networks that are held: their hashes, or any notation of an architecture that has one of them."""
        return Held(self._hashes, self._row)

    def values(self, architecture: str) -> dict[str, dict[str, float]]:
        """Return what is known of a network: means, single trainings, parameters in millions."""
        row = self._held(architecture)
        trained = self._trained[row]
        known = {metric: float(means[row]) for metric, means in self._means.items() if not np.isnan(means[row])}
        for metric, runs in ((_VALID, trained.valid), (_TEST, trained.test)):
            known |= {f"{metric}_s{run}": value for run, value in enumerate(runs[:RUNS]) if len(runs) > 1}
        return {DATASET: known | ({} if trained.parameters is None else {_PARAMETERS: trained.parameters / 1e6})}

    def num_seeds(self, architecture: str) -> int | None:
        """Return how many trainings the file has of a network; None where it has one number, perhaps a mean."""
        count = len(self._trained[self._held(architecture)].valid)
        return count if count > 1 else None

    def everyone(self, dataset: str, metric: str) -> npt.NDArray[np.floating[Any]] | None:
        """Return a mean accuracy of every network."""
        return self._means.get(metric)

    def query(self, architecture: Any, dataset: str, metric: str) -> float:
        """Return a number (see `Benchmark.query`); the two means take some ten microseconds."""
        row = self._row(architecture) if dataset == DATASET and metric in self._means else None
        value = np.nan if row is None else float(self._means[metric][row])
        return super().query(architecture, dataset, metric) if np.isnan(value) else value

    def key(self, architecture: Any) -> str:
        """Return an architecture node by node.

        Raises:
            SpaceError: it is malformed.
            DataError: its network is not held; the message says how many of the space's are.
        """
        key = self._canonical(architecture)
        self._held(key)
        return key

    def lowest_error(self, metric: str) -> float:
        """Return the least error of a single training in percent, NaN where the file has none: regrets subtract it."""
        runs = [t.valid if metric == _VALID else t.test for t in self._trained]
        return 100 - max((max(each) for each in runs if each), default=float("nan"))

    @property
    def held(self) -> str:
        """Say how many of the space's networks are held."""
        count = f"{len(self._trained):,} of the {self._space.num_networks:,}"
        return f"{self.name} holds {count} different networks of {self._space.title}"

    def _canonical(self, architecture: Any) -> str:
        if isinstance(architecture, str) and architecture in self._by_hash:
            blocks = self._space.blocks
            architecture = blocks.architecture(blocks.wiring_of(self._specs[self._by_hash[architecture]]))
        return self.canonical(architecture)

    def _held(self, architecture: Any) -> int:
        row = self._row(architecture)
        if row is None:
            raise DataError(f"{self.held}, not {architecture}.")
        return row

    def _row(self, architecture: Any) -> int | None:
        """Return the row of an architecture, None if its network is not held."""
        if isinstance(architecture, str) and architecture in self._by_hash:
            return self._by_hash[architecture]
        if not isinstance(architecture, str | Mapping):
            raise SpaceError(f"{architecture!r} does not name an architecture of {self._space.title}")
        return self._rows.get(self._space.blocks.key(self._space.wiring(architecture)))


class Held(Collection[str]):
    """Networks by their hashes; whatever names the architecture of one is in them."""

    def __init__(self, hashes: Collection[str], row: Callable[[Any], int | None]) -> None:
        self._hashes, self._row = hashes, row

    def __len__(self) -> int:
        return len(self._hashes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._hashes)

    def __contains__(self, architecture: object) -> bool:
        try:
            return self._row(architecture) is not None
        except SpaceError:
            return False


def _means(runs: Any) -> npt.NDArray[np.float64]:
    return np.array([sum(each) / len(each) if each else np.nan for each in runs], dtype=np.float64)


def find_table(path: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the file at `path` (or in that folder), else the imported table in the folder that BALENAS_DATA names.

    Official files are only taken where they are asked for: reading one takes a minute.

    Raises:
        DataError: `path` is given and there is no file.
    """
    if path is None:
        folder = os.environ.get("BALENAS_DATA")
        table = expanded(folder) / TABLE_FILE if folder else None
        return table if table is not None and table.is_file() else None
    place = expanded(path)
    found = _in_folder(place) if place.is_dir() else place
    if found is None or not found.is_file():
        raise DataError(f"there is no {TABLE_FILE}, {' or '.join(OFFICIAL_FILES)} at {place}. {WHERE}.")
    return found


def _in_folder(folder: Path) -> Path | None:
    return next((folder / name for name in (TABLE_FILE, *OFFICIAL_FILES) if (folder / name).is_file()), None)


def import_table(path: Path, output: Path, progress: Callable[[int], object] = lambda done: None) -> int:
    """Write what a file of NAS-Bench-101 knows of the three spaces as a small table; return the number of networks.

    Raises:
        FileFormatError: the file is damaged or of another kind.
        OptionError: it gives hashes alone, so it is as small as it can be.
        StorageError: the table could not be written.
    """
    found = read_modules(path, progress)
    if any(trained.spec is None for trained in found.values()):
        raise OptionError(f"{path} gives hashes without the modules: use it as it is, with --table {path}")
    write_modules(output, found)
    return len(found)


class Reader:
    """What a space names as its ground truth: `find_table` and `open_benchmark`.

    Args:
        number: of the space.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.find_table = find_table

    def open_benchmark(self, path: str | os.PathLike[str] | None = None) -> OneShotBenchmark:
        """Return the benchmark of the space in a file; None: the imported table, or NNI's or an official file.

        Raises:
            DataError: there is none; the message says which files would do, and where they come from.
            FileFormatError: the file is damaged or of another kind.
        """
        place = find_table(path)
        for folder in (os.environ.get("BALENAS_DATA"), os.environ.get("NASBENCHMARK_DIR"), "~/.nni/nasbenchmark"):
            place = place or (_in_folder(expanded(folder)) if folder else None)
        if place is None:
            raise DataError(f"there is no {TABLE_FILE}, and no {' or '.join(OFFICIAL_FILES)}. {WHERE}.")
        status = place.stat()
        return OneShotBenchmark(SPACES[self._number], place.name, _read(place, status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=1)
def _read(path: Path, _mtime_ns: int, _size: int) -> dict[str, Trained]:
    return read_modules(path)


space_1, space_2, space_3 = map(Reader, SPACES)

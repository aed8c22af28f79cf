"""Ground truth whose architectures are read one at a time, when asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping

from balenas_plugin.benchmarks.column_benchmark import ColumnBenchmark
from balenas_plugin.benchmarks.measures import COLUMNS
from balenas_plugin.benchmarks.trials import Row

_PLACE = {column: place for place, column in enumerate(COLUMNS)}


class RowBenchmark(ColumnBenchmark):
    """A benchmark that knows how to read the row of one architecture; rows that were read are kept.

    Args:
        name: what the numbers come from.
        positions: canonical string -> NAS-Bench-201's number, of every architecture that is held.
    """

    def __init__(self, *, name: str, positions: Mapping[str, int]) -> None:
        self._name = name
        self._positions = positions
        self._rows: dict[str, Row] = {}

    @abstractmethod
    def read_row(self, index: int) -> Row:
        """Read the row of architecture number `index`."""

    def row(self, architecture: str) -> Row:
        """Return the row of an architecture of `positions`."""
        if architecture not in self._rows:
            self._rows[architecture] = self.read_row(self._positions[architecture])
        return self._rows[architecture]

    @property
    def name(self) -> str:
        """Return the name that was given."""
        return self._name

    @property
    def columns(self) -> Collection[str]:
        """Return every column: what an architecture lacks is known once it is read."""
        return _PLACE.keys()

    @property
    def positions(self) -> Mapping[str, int]:
        """Return the number of every architecture."""
        return self._positions

    def value(self, architecture: str, column: str) -> float:
        """Return one number (see `ColumnBenchmark.value`)."""
        return float(self.row(architecture).values[_PLACE[column]])

    def index(self, architecture: str) -> int:
        """Return NAS-Bench-201's number."""
        return self._positions[architecture]

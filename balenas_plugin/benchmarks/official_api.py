"""Ground truth from an API object of the `nas-bench-201` package that the caller has already built."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from balenas_plugin.benchmarks.column_benchmark import canonical
from balenas_plugin.benchmarks.row_benchmark import RowBenchmark
from balenas_plugin.benchmarks.trials import Row, reduce_architecture
from balenas_plugin.errors import OptionError


class OfficialApiBenchmark(RowBenchmark):
    """Ground truth from a `nas_201_api.NASBench201API`.

    Building such an object loads the whole official file (28 GB of memory). Where you only have the file, open it with
    `open_benchmark`, which streams it, or import it once.

    Raises:
        OptionError: `api` is something else.
    """

    def __init__(self, api: Any) -> None:
        if not hasattr(api, "meta_archs") or not hasattr(api, "arch2infos_dict"):
            raise OptionError(f"a nas_201_api.NASBench201API object is needed, not {type(api).__name__}.")
        self._api = api
        held = api.arch2infos_dict
        positions = {canonical(text): index for index, text in enumerate(api.meta_archs) if index in held}
        super().__init__(name=f"nas_201_api ({api.filename or 'given as a dictionary'})", positions=positions)

    def read_row(self, index: int) -> Row:
        """Reduce what the API object holds of architecture number `index`."""
        schedules = {epochs: results.state_dict() for epochs, results in self._api.arch2infos_dict[index].items()}
        return reduce_architecture(schedules, source=self.name)

    def all_values(self, column: str) -> npt.NDArray[np.floating[Any]]:
        """Return `column` of every architecture; the first call reduces them all (seconds)."""
        return np.array([self.value(architecture, column) for architecture in self.positions])

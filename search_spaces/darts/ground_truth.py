"""NAS-Bench-301: surrogate models of the accuracy on CIFAR-10, where the user has them.

They are of the package nasbench301, which reads them itself. Its networks are of C = 32 and 8 cells, trained for 100
epochs; what it returns is a prediction of their validation accuracy, and no training has confirmed it.

Source: Siems, Zimmer et al. 2020; Zela, Siems, Zimmer et al. 2022 (Surrogate NAS Benchmarks).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from balenas_plugin.bayes.decisions import NO_CONNECTION
from balenas_plugin.benchmarks import Benchmark
from balenas_plugin.benchmarks.opening import DATA_VARIABLE
from balenas_plugin.errors import DataError, MissingDependencyError, SpaceError, first_line
from balenas_plugin.files import expanded

from .genotype import from_nni, read_genotype
from .search_space import DartsSpace

_MODELS = ("nb_models_1.0/xgb_v1.0", "nb_models_0.9/xgb_v0.9")
"""Where the package's own download puts the models of the accuracy."""

_METRIC = "predicted_valid_accuracy"


def find_table(path: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the folder of the models: `path`, or in it or the folder that BALENAS_DATA names; None without any.

    Raises:
        DataError: `path` is given and there are no models.
    """
    given = path if path is not None else os.environ.get(DATA_VARIABLE)
    if not given:
        return None
    place = expanded(given)
    found = next((place / models for models in _MODELS if (place / models).is_dir()), None)
    if found is None and path is not None:
        if not any(place.glob("**/*surrogate_model.model")):
            raise DataError(f"{place} holds no models of NAS-Bench-301 (folders with a surrogate_model.model)")
        found = place
    return found


def open_benchmark(path: str | os.PathLike[str] | None = None) -> SurrogateBenchmark:
    """Return NAS-Bench-301's predictions.

    Raises:
        DataError: there are no models, or they cannot be loaded.
        MissingDependencyError: the package nasbench301 cannot be imported.
    """
    place = find_table(path)
    if place is None:
        raise DataError(
            "NAS-Bench-301 needs its models: fetch nb_models_1.0 with nasbench301.download_models, and set "
            f"{DATA_VARIABLE} to the folder that holds it"
        )
    try:
        import nasbench301
    except Exception as error:  # of an old package among new ones, anything
        raise MissingDependencyError(
            f"NAS-Bench-301's models in {place} are read by the package nasbench301, which cannot be imported here "
            f"({first_line(error)}); it needs older libraries than this package, so parameters and multiply-adds are "
            "all that can be said of a genotype in this environment"
        ) from error
    try:
        return SurrogateBenchmark(place, nasbench301.load_ensemble(str(place)))
    except Exception as error:
        raise DataError(f"nasbench301 cannot load the models in {place}: {first_line(error)}") from error


class SurrogateBenchmark(Benchmark):
    """Predictions for every genotype of the DARTS space.

    Args:
        place: folder of the models.
        model: with the `predict` of nasbench301.
    """

    space = DartsSpace.name
    ranked_by = {"cifar10": _METRIC}  # noqa: RUF012  # as the base class declares it

    def __init__(self, place: Path, model: Any) -> None:
        self._place, self._model = place, model

    @property
    def name(self) -> str:
        """The folder of the models."""
        return f"NAS-Bench-301 ({self._place.name})"

    @property
    def positions(self) -> Collection[str]:
        """Every genotype of the space; too many to be listed."""
        return _Genotypes()

    def values(self, architecture: str) -> dict[str, dict[str, float]]:
        """Return the predicted validation accuracy, in percent, without the noise of single trainings."""
        genotype = from_nni(read_genotype(architecture).sample or {})
        prediction = self._model.predict(config=genotype, representation="genotype", with_noise=False)
        return {"cifar10": {_METRIC: float(prediction)}}


class _Genotypes(Collection[str]):
    _space = DartsSpace()

    def __contains__(self, text: object) -> bool:
        try:
            sample = read_genotype(str(text)).sample or {}
            keys = [decision.from_architecture(sample) for decision in self._space.decisions]
        except (SpaceError, KeyError, ValueError):  # no genotype, too few nodes, other operations
            return False
        return sum(map(len, keys)) == len(sample) / 2 and NO_CONNECTION not in sample.values()

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return self._space.size

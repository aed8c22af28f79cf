"""A training of a reproduction: `balenas train` of one architecture with one seed, in a folder of its own."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import yaml

from balenas_plugin.config import differences, read_yaml
from balenas_plugin.data import DataConfig
from balenas_plugin.errors import OptionError
from balenas_plugin.files import write_text_atomically
from balenas_plugin.reproduce.progress import Key
from balenas_plugin.reproduce.retraining.stages import OpenedStage
from balenas_plugin.reproduce.units import Unit
from balenas_plugin.training.recipe import Recipe
from balenas_plugin.training.trained_network import RESULT, TrainedNetwork
from balenas_plugin.training.training_data import OF_SEARCHES

_METRICS = "metrics.csv"
_ELSEWHERE = ("root", "download", "num_workers", "on_device")
"""Options of the data that may differ where a training is continued on another machine."""


@dataclass(frozen=True, eq=False)
class Training(Unit):
    """One network of an architecture, trained and tested.

    Its folder is named after the architecture: rows of a table that found the same one share it.

    Args:
        stage: which training it is.
        label: whose architecture it is, for messages.
        architecture: in the space's notation.
        recipe: with the width of the network.
        seed: of everything random.
        output: folder of the reproduction.
        threads: of the CPU; None: as many as torch takes.
    """

    stage: OpenedStage
    label: str
    architecture: str
    recipe: Recipe
    seed: int
    output: Path
    threads: int | None = None

    called: ClassVar[str] = "training"
    plural: ClassVar[str] = "trainings"

    @property
    def path(self) -> Path:
        """Its folder, trainings/<stage>/<digest of the architecture>/seed-<k>."""
        digest = hashlib.sha256(self.architecture.encode()).hexdigest()[:12]
        return self.output / "trainings" / self.stage.name / digest / f"seed-{self.seed}"

    @property
    def key(self) -> Key:
        """The stage, and whose architecture with which seed."""
        return self.stage.name, f"{self.label}, training seed {self.seed}"

    @property
    def epochs(self) -> int:
        """Those of the recipe."""
        return self.recipe.epochs

    @property
    def history(self) -> Path:
        """That of the training."""
        return self._folder / _METRICS

    @property
    def finished(self) -> bool:
        """Whether it has been tested."""
        return (self.path / RESULT).exists()

    @property
    def environment(self) -> Mapping[str, str]:
        """Threads: `balenas train` has no option for them."""
        return {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}

    @property
    def _folder(self) -> Path:
        """Where `balenas train` puts the network of the seed."""
        return self.path / f"seed_{self.seed}"

    @property
    def _settings(self) -> Path:
        return self.path.with_suffix(".yml")

    def _plain(self) -> dict[str, Any]:
        data = {key: value for key, value in asdict(self._data).items() if key not in _ELSEWHERE}
        plain = {"architecture": self.architecture, "recipe": self.recipe.to_dict(), "data": data, "seed": self.seed}
        return dict(json.loads(json.dumps(plain)))

    @property
    def _data(self) -> DataConfig:
        return self.stage.stage.data

    def require_same(self) -> None:
        """Raise if the folder was started with other settings.

        Raises:
            OptionError: it was.
        """
        if not self._settings.exists():
            return
        different = differences(read_yaml(self._settings), self._plain())
        if different:
            raise OptionError(
                f"{self.path} was started with other settings: {different}. Go on with the same scale, or choose "
                "another --output"
            )

    def command(self) -> list[Any]:
        """Write the settings and the recipe; return the words that begin the training, or go on with it."""
        recipe = self.path.with_suffix(".recipe.yml")
        for path, content in ((self._settings, self._plain()), (recipe, self.recipe.to_dict())):
            write_text_atomically(path, yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False))
        given = {
            f.name: getattr(self._data, f.name) for f in fields(DataConfig) if f.name not in ("name", *OF_SEARCHES)
        }
        options = [
            word
            for name, value in given.items()
            if value != getattr(_DEFAULTS, name)
            for word in ("--set", f"data.{name}={json.dumps(value)}")
        ]
        named = ["--recipe", recipe, "--data", self._data.name, *options]
        named += ["--num-workers", self._data.num_workers] if self._data.num_workers else []
        return ["train", self.architecture, *named, "--seeds", self.seed, "--output", self.path, "--resume"]

    def result(self) -> TrainedNetwork:
        """Return what is known of the trained network.

        Raises:
            FileFormatError: its file is damaged.
        """
        return TrainedNetwork.load(self._folder)

    def validation_accuracy(self) -> float:
        """Return the share of the validation images that it is right about after the last epoch.

        Raises:
            OptionError: the training has not validated.
        """
        with self.history.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or not rows[-1].get("val_acc"):
            raise OptionError(f"{self.history} has no validation accuracy (val_acc) after the last epoch")
        return float(rows[-1]["val_acc"])


def finished_seconds(output: Path, stage: OpenedStage) -> list[float]:
    """Return the seconds of each finished training of a stage.

    Raises:
        FileFormatError: the file of one is damaged.
    """
    found = sorted((output / "trainings" / stage.name).glob(f"*/seed-*/seed_*/{RESULT}"))
    return [TrainedNetwork.load(path.parent).seconds for path in found]


_DEFAULTS = DataConfig()

"""What is known of a trained network, and of several that were trained alike with other seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scipy import stats
from torch import nn

from balenas_plugin.data.text import TrainingTexts
from balenas_plugin.deployment import Deployed
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.files import read_text, write_text_atomically
from balenas_plugin.options import declared_options, read_options
from balenas_plugin.training.training_data import TrainingData

RESULT = "train.json"
WEIGHTS = "weights.safetensors"

CONFIDENCE = 0.95
_SHOWN_PAIRS = 3


@declared_options(called="the result of a training")
@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A trained network, measured on the test images.

    Args:
        test_accuracy: share of the test images that it is right about; of a text, of the next words.
        interval: (low, high), where that lies with a confidence of 95 %: Wilson's for the number of test images.
        test_perplexity: of the test text, which is what counts there; None for images.
        top5_accuracy: share whose class is among the five that it takes for likeliest; None below six classes.
        confusion: images of class i (row) that it takes for class j.
        class_names: of class 0, 1, ...
        parameters: without those of the auxiliary head.
        multiply_adds: of one image, or one word.
        latency_ms: median of a forward pass of one image or word, in milliseconds, on `machine`; None where inputs
            are no tensors.
        machine: that it was measured on.
        metrics: what a module of one's own has logged in its test.
        seconds: that the training took, interruptions not counted.
        epochs: that it had.
        seed: of everything random.
        folder: with its weights.
    """

    test_accuracy: float
    interval: tuple[float, float]
    test_perplexity: float | None = None
    top5_accuracy: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    class_names: tuple[str, ...] = ()
    parameters: int = 0
    multiply_adds: int = 0
    latency_ms: float | None = None
    machine: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float
    epochs: int
    seed: int
    folder: str

    @property
    def weights(self) -> Path:
        """File of the weights."""
        return Path(self.folder) / WEIGHTS

    @property
    def confused(self) -> list[tuple[str, str, int]]:
        """The classes that are confused most often: (what it is, what it is taken for, how often)."""
        pairs = [
            (self.class_names[i], self.class_names[j], count)
            for i, row in enumerate(self.confusion)
            for j, count in enumerate(row)
            if i != j and count
        ]
        return sorted(pairs, key=lambda pair: -pair[2])[:_SHOWN_PAIRS]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the folder is where they are."""
        plain = asdict(self)
        del plain["folder"]
        if self.test_perplexity is None:
            del plain["test_perplexity"]
        return {**plain, "interval": list(self.interval), "confused": [list(pair) for pair in self.confused]}

    def save(self) -> Path:
        """Write train.json, whole or not at all; return its path."""
        path = Path(self.folder) / RESULT
        write_text_atomically(path, json.dumps(self.to_dict(), indent=1) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path) -> TrainedNetwork:
        """Read train.json of a folder.

        Raises:
            FileFormatError: it is missing, damaged, or something else.
        """
        path = folder / RESULT
        try:
            document = json.loads(read_text(path))
            document.pop("confused", None)
            return read_options(cls, {**document, "folder": str(folder)})
        except (OSError, ValueError, AttributeError, RecursionError, OptionError) as error:
            raise FileFormatError(f"{path} is not the result of a training: {error}. Train again.") from error


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Networks of one architecture, trained alike with several seeds.

    Args:
        networks: by seed.
        folder: of them all.
        architecture: its notation, or what else it is called.
        recipe: its name.
        network: the first one, with its trained weights, without an auxiliary head, on the CPU.
        data: that it was trained and tested on; None for modules that have their own.
        deployed: the first network as files that run without this package, if that was asked for.
    """

    networks: Sequence[TrainedNetwork]
    folder: str
    architecture: str = ""
    recipe: str = ""
    network: nn.Module = field(repr=False, compare=False)
    data: TrainingData | TrainingTexts | None = field(default=None, repr=False, compare=False)
    deployed: Deployed | None = None

    @property
    def first(self) -> TrainedNetwork:
        """The first network: choosing the one with the best test accuracy would flatter it."""
        return self.networks[0]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the networks."""
        return [network.seed for network in self.networks]

    @property
    def test_accuracy(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(network.test_accuracy for network in self.networks)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the mean, by Student's t over the seeds; of a single network, that of its test images."""
        if len(self.networks) == 1:
            return self.networks[0].interval
        return mean_interval([network.test_accuracy for network in self.networks])

    @property
    def top5_accuracy(self) -> float | None:
        """Mean over the seeds."""
        return self._mean("top5_accuracy")

    @property
    def test_perplexity(self) -> float | None:
        """Mean over the seeds; None for images."""
        return self._mean("test_perplexity")

    def _mean(self, name: str) -> float | None:
        known = [value for network in self.networks if (value := getattr(network, name)) is not None]
        return statistics.fmean(known) if known else None

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Sum over the seeds."""
        of_all = [network.confusion for network in self.networks]
        return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*of_all, strict=True))

    @property
    def parameters(self) -> int:
        """Of a network."""
        return self.first.parameters

    @property
    def multiply_adds(self) -> int:
        """Of a network and one image."""
        return self.first.multiply_adds

    @property
    def latency_ms(self) -> float | None:
        """Median over the seeds."""
        known = [network.latency_ms for network in self.networks if network.latency_ms is not None]
        return statistics.median(known) if known else None

    @property
    def seconds(self) -> float:
        """Sum over the seeds."""
        return math.fsum(network.seconds for network in self.networks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        spread = [network.test_accuracy for network in self.networks]
        return {
            "architecture": self.architecture,
            "recipe": self.recipe,
            "test_accuracy": self.test_accuracy,
            **({} if self.test_perplexity is None else {"test_perplexity": self.test_perplexity}),
            "interval": list(self.interval),
            "standard_deviation": statistics.stdev(spread) if len(spread) > 1 else None,
            "seeds": self.seeds,
            "top5_accuracy": self.top5_accuracy,
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "latency_ms": self.latency_ms,
            "machine": self.first.machine,
            "seconds": self.seconds,
            "confusion": self.confusion,
            "confused": [list(pair) for pair in self.confused],
            "class_names": list(self.first.class_names),
            "networks": [network.to_dict() for network in self.networks],
            **({} if self.deployed is None else {"deployed": self.deployed.to_dict()}),
        }

    @property
    def confused(self) -> list[tuple[str, str, int]]:
        """The classes that are confused most often: (what it is, what it is taken for, how often)."""
        return replace(self.first, confusion=self.confusion).confused

    def save(self) -> Path:
        """Write train.json, whole or not at all; return its path."""
        path = Path(self.folder) / RESULT
        write_text_atomically(path, json.dumps(self.to_dict(), indent=1) + "\n")
        return path


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """Return where a share lies with a confidence of 95 %, of which `right` of `images` were counted.

    Source: Wilson 1927.
    """
    low, high = stats.binomtest(right, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return where the mean lies with a confidence of 95 %, of which a few normal values were seen: Student's t."""
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return max(0.0, mean - reach), min(1.0, mean + reach)

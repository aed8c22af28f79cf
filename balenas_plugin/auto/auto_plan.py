"""The plan of `balenas auto`: everything that is decided before it starts, as a YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from balenas_plugin.config import DEFAULT_OPTIMIZER, SearchConfig, read_yaml
from balenas_plugin.data.augment import AUGMENTATIONS
from balenas_plugin.errors import OptionError
from balenas_plugin.options import (
    NonNegative,
    NonNegativeInt,
    OneOf,
    Positive,
    PositiveInt,
    Seed,
    declared_options,
    read_options,
)
from balenas_plugin.selection import ProxySelection

PLAN = "plan.yml"

_RATE, _BATCH = 0.025, 64  # of the search's weights: the rate for such a batch

_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")
_LONGEST = 30 * 24 * 3600


def read_budget(text: str) -> float:
    """Return the seconds of "2h", "90m", "1h30m" or "45s".

    Raises:
        OptionError: it is none of these, or no time at all.
    """
    found = _BUDGET.fullmatch(text.replace(" ", "").lower())
    seconds = (
        sum(float(number or 0) * unit for number, unit in zip(found.groups(), (3600, 60, 1), strict=True))
        if found
        else 0
    )
    if not 0 < seconds <= _LONGEST:
        raise OptionError(f"--budget must be a time such as 2h, 90m, 1h30m or 45s, of 30 days at most; got {text!r}")
    return seconds


@declared_options("limits")
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the delivered network must keep within; None: no limit.

    Args:
        max_params: parameters.
        max_flops: floating-point operations of one image, of which a multiply-add is two.
        max_latency: milliseconds for an image, by onnxruntime with one thread of this machine's CPU.
    """

    max_params: Positive | None = None
    max_flops: Positive | None = None
    max_latency: Positive | None = None

    def __str__(self) -> str:
        words = {
            "parameters": self.max_params,
            "floating-point operations an image": self.max_flops,
            "ms an image": self.max_latency,
        }
        return ", ".join(f"at most {limit:,.6g} {what}" for what, limit in words.items() if limit is not None)


@declared_options("search")
@dataclass(frozen=True, kw_only=True)
class PlannedSearch:
    """The search.

    Args:
        space: what is searched: `space` of a config of `balenas search`.
        epochs: of it.
        images: of the training images that it uses.
        seconds: that it will take.
    """

    space: Mapping[str, Any]
    epochs: PositiveInt
    images: PositiveInt
    seconds: NonNegative


@declared_options("network")
@dataclass(frozen=True, kw_only=True)
class PlannedTraining:
    """A network and its training.

    Args:
        sizes: of the network: those of its space, or the width of the baseline.
        epochs: of its training.
        seconds: that it will take.
        parameters: at most.
        keeps_limits: false of a baseline that breaks them in every size: it is a yardstick, and never delivered.
    """

    sizes: Mapping[str, PositiveInt]
    epochs: PositiveInt
    seconds: NonNegative
    parameters: PositiveInt
    keeps_limits: bool = True


@declared_options("the plan")
@dataclass(frozen=True, kw_only=True)
class AutoPlan:
    """What `balenas auto` does.

    Args:
        images: the folder.
        budget: seconds in all.
        limits: of the network.
        seed: of everything random.
        skip_unreadable: whether images that cannot be decoded are left out.
        fingerprint: SHA-256 of the names and classes of the images that are used.
        threads: of the CPU.
        image_size: side of the networks' input in pixels.
        augmentation: of training images.
        batch_size: images of a step.
        search: see `PlannedSearch`.
        network: the one that is found.
        baseline: the ResNet that it is compared with; it is trained for as long as search, selection and training of
            the other together.
        preparing: seconds that looking, measuring and decoding take.
        selecting: seconds of the selection.
        delivering: seconds for the last measurements and the files.
        memory: bytes of this process.
    """

    images: str
    budget: Positive
    limits: Limits
    seed: Seed = 0
    skip_unreadable: bool = False
    fingerprint: str
    threads: PositiveInt
    image_size: Annotated[int, Field(ge=4, le=4096)]
    augmentation: Annotated[str, OneOf(lambda: AUGMENTATIONS)]
    batch_size: PositiveInt
    search: PlannedSearch
    network: PlannedTraining
    baseline: PlannedTraining
    preparing: NonNegative
    selecting: NonNegative
    delivering: NonNegative
    memory: NonNegativeInt

    @property
    def seconds(self) -> float:
        """What all of it takes."""
        trained = self.search.seconds + self.selecting + self.network.seconds + self.baseline.seconds
        return self.preparing + trained + self.delivering

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def to_yaml(self) -> str:
        """Return the plan as a file has it."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def load(cls, output: Path) -> AutoPlan:
        """Read the plan of a folder.

        Raises:
            OptionError: it is missing or damaged.
        """
        return read_options(cls, read_yaml(output / PLAN, ["images", "budget", "search"]))

    def search_config(self, data: Path) -> SearchConfig:
        """Return the search as a config.

        Args:
            data: folder of the packed images.
        """
        return search_config(
            self.search.space,
            data,
            seed=self.seed,
            threads=self.threads,
            batch_size=self.batch_size,
            images=self.search.images,
            epochs=self.search.epochs,
        )

    def selection(self) -> ProxySelection:
        """Return how the architecture is selected: BaLeNAS-TF, within the limits that do not depend on the machine."""
        return ProxySelection(seed=self.seed, max_params=self.limits.max_params, max_flops=self.limits.max_flops)


def search_config(
    space: Mapping[str, Any], data: Path, *, seed: int, threads: int, batch_size: int, images: int, epochs: int
) -> SearchConfig:
    """Return a search of so many epochs: its rates and its warm-up follow from them.

    Draws share a batch, and no curvature is measured: that costs less. Weights that have hardly been trained speak for
    pools and skip connections, so a short search moves the logits little, and leaves the choice to the selection.
    """
    warmup = epochs // 3
    steps = max(1, (epochs - warmup) * -(-images // (2 * batch_size)))
    return SearchConfig.from_dict(
        {
            "name": "search",
            "seed": seed,
            "threads": threads,
            "space": dict(space),
            "data": {"name": "packed", "root": str(data), "batch_size": batch_size, "limit": images, "seed": seed},
            "strategy": {
                "name": "BaLeNAS",
                "num_mc_samples": 3,
                "mc_batches": "split",
                "arc_learning_rate": min(0.01, max(3e-4, 4 / steps)),
                "weight_step_alpha": "sample",
                "warmup_epochs": warmup,
                "gradient_clip_val": 5,
                "validate_every_n_epochs": 0,
            },
            "evaluator": {
                "epochs": epochs,
                "optimizer": {**DEFAULT_OPTIMIZER, "lr": _RATE * batch_size / _BATCH},
                "schedule": {"name": "cosine", "min_lr": 0.001},
                "logger": "none",
            },
            "diagnostics": {"curvature": "off", "validate": False},
        }
    )

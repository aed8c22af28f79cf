"""Test the two networks on the images held out, and write the better one in the forms that it is used in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from balenas_plugin.auto.auto_plan import AutoPlan
from balenas_plugin.auto.splitting import HELD_OUT
from balenas_plugin.data import DataConfig, ImageSet, load_test_data
from balenas_plugin.deployment import Deployed, deploy
from balenas_plugin.files import write_text_atomically
from balenas_plugin.training import TrainedNetwork, TrainingData
from balenas_plugin.training.trained_network import wilson_interval

DELIVERED, RESULT, PAGE = "delivered", "auto.json", "report.html"

_BATCH = 256

Trained = tuple[nn.Module, TrainedNetwork]


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One of the two networks.

    Args:
        validation_accuracy: share of the images that are chosen by.
        test_accuracy: share of the images held out.
        interval: where that lies with a confidence of 95 %.
        parameters: of the network.
        multiply_adds: of an image.
        epochs: of its training.
        planned_epochs: the same, had time not been up.
        seconds: of its training.
    """

    validation_accuracy: float
    test_accuracy: float
    interval: tuple[float, float]
    parameters: int
    multiply_adds: int
    epochs: int
    planned_epochs: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What `balenas auto` has made.

    Args:
        winner: "network", which was found, or "baseline".
        tested: both.
        notation: of the architecture that was found.
        sizes: of its network.
        confusion: of the winner on the images held out: images of class i (row) that it takes for class j.
        class_names: of class 0, 1, ...
        deployed: the files.
        seconds: of each stage.
        output: folder of the run.
    """

    winner: str
    tested: dict[str, Tested]
    notation: dict[str, str]
    sizes: dict[str, int]
    confusion: list[list[int]]
    class_names: tuple[str, ...]
    deployed: Deployed
    seconds: dict[str, float]
    output: Path

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = asdict(replace(self, deployed=None))  # type: ignore[arg-type]  # it describes itself
        del plain["output"]
        return {**plain, "deployed": self.deployed.to_dict()}

    def save(self) -> None:
        """Write auto.json."""
        write_text_atomically(self.output / RESULT, json.dumps(self.to_dict(), indent=1) + "\n")


def deliver(
    plan: AutoPlan,
    output: Path,
    data: TrainingData,
    networks: Mapping[str, Trained],
    *,
    found: Mapping[str, Any],
    epochs: Mapping[str, int],
    seconds: Mapping[str, float],
    int8: bool,
) -> Delivered:
    """Choose by the validation images, test on those held out, and write the files of the better network.

    Args:
        plan: of the run.
        output: its folder.
        data: that trained the networks.
        networks: "network" and "baseline", trained, and what is known of them.
        found: the result of the selection.
        epochs: of both, as planned.
        seconds: of each stage.
        int8: write a quantised network as well.

    Raises:
        StorageError: the disk is full.
    """
    held_out = load_test_data(DataConfig(name="packed", root=str(output / HELD_OUT)))
    winner = max(networks, key=lambda name: (networks[name][1].test_accuracy, -networks[name][1].multiply_adds))
    confusions = {name: _confusion(network, held_out, len(data.class_names)) for name, (network, _) in networks.items()}
    tested = {name: _tested(trained, confusions[name], epochs[name]) for name, (_, trained) in networks.items()}
    deployed = deploy(
        networks[winner][0], replace(data, test=held_out), output / DELIVERED, int8=int8, threads=plan.threads
    )
    return Delivered(
        winner=winner,
        tested=tested,
        notation=dict(found["notation"]),
        sizes=dict(found["sizes"]),
        confusion=confusions[winner].tolist(),
        class_names=data.class_names,
        deployed=deployed,
        seconds=dict(seconds),
        output=output,
    )


@torch.no_grad()
def _confusion(network: nn.Module, images: ImageSet, num_classes: int) -> torch.Tensor:
    """Return how many images of class i (row) a network takes for class j."""
    network = network.cpu().eval()
    found = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for rows in torch.arange(len(images)).split(_BATCH):
        inputs, labels = images.batch(rows)
        found.index_put_((labels, network(inputs).argmax(1)), torch.tensor(1), accumulate=True)
    return found


def _tested(trained: TrainedNetwork, confusion: torch.Tensor, planned_epochs: int) -> Tested:
    right, images = int(confusion.diag().sum()), int(confusion.sum())
    return Tested(
        validation_accuracy=trained.test_accuracy,
        test_accuracy=right / images,
        interval=wilson_interval(right, images),
        parameters=trained.parameters,
        multiply_adds=trained.multiply_adds,
        epochs=trained.epochs,
        planned_epochs=planned_epochs,
        seconds=trained.seconds,
    )

"""Test the two networks on the images held out, and write the better one in the forms that it is used in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        validation_loss: mean cross-entropy of these, in nats: how sure the network is of what they are.
        test_accuracy: share of the images held out.
        interval: where that lies with a confidence of 95 %.
        parameters: of the network.
        multiply_adds: of an image.
        epochs: of its training.
        planned_epochs: the same, had time not been up.
        seconds: of its training.
        keeps_limits: whether it may be delivered.
    """

    validation_accuracy: float
    validation_loss: float
    test_accuracy: float
    interval: tuple[float, float]
    parameters: int
    multiply_adds: int
    epochs: int
    planned_epochs: int
    seconds: float
    keeps_limits: bool = True


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

    Where both are right about as many validation images, the one with the smaller loss is chosen. A baseline that does
    not keep the limits is tested and not chosen.

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
    losses = {name: _loss(network, data.test) for name, (network, _) in networks.items()}
    keeps = {"network": True, "baseline": plan.baseline.keeps_limits}
    winner = max(filter(keeps.__getitem__, networks), key=lambda name: (networks[name][1].test_accuracy, -losses[name]))
    confusions = {name: _confusion(network, held_out, len(data.class_names)) for name, (network, _) in networks.items()}
    tested = {
        name: replace(_tested(trained, losses[name], confusions[name], epochs[name]), keeps_limits=keeps[name])
        for name, (_, trained) in networks.items()
    }
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
def _answers(network: nn.Module, images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits and labels of images, batch by batch."""
    network = network.cpu().eval()
    for rows in torch.arange(len(images)).split(_BATCH):
        inputs, labels = images.batch(rows)
        yield network(inputs), labels


def _loss(network: nn.Module, images: ImageSet) -> float:
    """Return the mean cross-entropy, in nats."""
    return sum(float(F.cross_entropy(*answer, reduction="sum")) for answer in _answers(network, images)) / len(images)


def _confusion(network: nn.Module, images: ImageSet, num_classes: int) -> Tensor:
    """Return how many images of class i (row) a network takes for class j."""
    found = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for logits, labels in _answers(network, images):
        found.index_put_((labels, logits.argmax(1)), torch.tensor(1), accumulate=True)
    return found


def _tested(trained: TrainedNetwork, loss: float, confusion: Tensor, planned_epochs: int) -> Tested:
    right, images = int(confusion.diag().sum()), int(confusion.sum())
    return Tested(
        validation_accuracy=trained.test_accuracy,
        validation_loss=loss,
        test_accuracy=right / images,
        interval=wilson_interval(right, images),
        parameters=trained.parameters,
        multiply_adds=trained.multiply_adds,
        epochs=trained.epochs,
        planned_epochs=planned_epochs,
        seconds=trained.seconds,
    )

"""The trainings of the papers: learning rates by step, and drop-path probabilities by epoch (beside: recipes.json)."""

from __future__ import annotations

from typing import Any, cast

import torch

from balenas_plugin.search_spaces.darts import build_network, make_genotype
from balenas_plugin.training import load_recipe
from balenas_plugin.training.image_training import ImageTraining
from replays import difference, largest

INPUTS: set[str] = set()


def learning_rate(document: dict[str, Any]) -> float:
    """Replay the learning rates, as the schedule of the training sets them in an optimizer."""
    return largest(difference((_rates(name, case), case["lr"])) for name, case in document["learning_rate"].items())


class _Trainer:
    def __init__(self, steps: int) -> None:
        self.estimated_stepping_batches = steps


def _rates(name: str, case: dict[str, Any]) -> list[float]:
    recipe = load_recipe(name)
    module = ImageTraining(torch.nn.Linear(1, 2).double(), recipe, num_classes=2)
    module._trainer = cast(Any, _Trainer(case["steps_per_epoch"] * recipe.epochs))
    [optimizer], [schedule] = module.configure_optimizers()
    rates = []
    for _ in range(max(case["steps"]) + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    return [rates[step] for step in case["steps"]]


def drop_path(document: dict[str, Any]) -> float:
    """Replay the probabilities, as the cells of a network have them."""
    genotype = make_genotype([("skip_connect", 0), ("skip_connect", 1)] * 4, None, [("skip_connect", 0)] * 8)
    found = []
    for name, case in document["drop_path"].items():
        recipe = load_recipe(name)
        network = build_network(genotype, channels=2, cells=3, drop_path=recipe.drop_path)
        for epoch, expected in zip(case["epochs"], case["probability"], strict=True):
            network.new_epoch(epoch, recipe.epochs)
            found.append(difference((network.cells[0].drop_path, expected), (recipe.drop_path_at(epoch), expected)))
    return largest(found)


SECTIONS = {"learning_rate": learning_rate, "drop_path": drop_path}

"""Train what a search has found, and random architectures of the same space alike: is it better than chance?"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from balenas_plugin.adapters.nni.run.finished_run import FinishedRun
from balenas_plugin.adapters.nni.strategies.nni_strategies import is_nnis
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.config import SearchConfig, TrainConfig
from balenas_plugin.data import DataConfig
from balenas_plugin.errors import OptionError
from balenas_plugin.files import write_text_atomically
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.selection.candidates import drawn_candidates
from balenas_plugin.training import Recipe, TrainedNetwork, load_recipe, load_training_data, train_network
from balenas_plugin.training.fitting import Devices

_DRAWS = 4
"""Draws for each random architecture that is wanted: some are drawn twice."""


@dataclass(frozen=True, kw_only=True)
class BesideRandom:
    """The trained winner of a search, and random architectures of its space that were trained alike.

    Args:
        winner: of the search.
        random: the others.
        recipe: by which all were trained.
        images: that they were trained on, and tested on.
        seen: whether the search has looked at those of the test: a folder of images had no part of its own for it.
    """

    winner: TrainedNetwork
    random: Sequence[TrainedNetwork]
    recipe: Recipe
    images: tuple[int, int]
    seen: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "winner": self.winner.to_dict(),
            "random": [network.to_dict() for network in self.random],
            "recipe": self.recipe.to_dict(),
            "images": dict(zip(("training", "test"), self.images, strict=True)),
            "test_images_seen_by_search": self.seen,
        }

    def __str__(self) -> str:
        training, test = self.images
        low, high = self.winner.interval
        text = (
            f"Trained for {self.recipe.epochs} epochs on {training:,} images and tested on {test:,} others"
            f"{' (which the search has seen)' if self.seen else ''}, the winner "
            f"has a test accuracy of {self.winner.test_accuracy:.1%} (95 % interval {low:.1%} to {high:.1%})"
        )
        found = [network.test_accuracy for network in self.random]
        if not found:
            return f"{text}."
        mean, deviation = statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0
        text += f"; {len(found)} random architectures of the space, trained alike, {mean:.1%} ± {100 * deviation:.1f}."
        return text if self.winner.test_accuracy > mean else f"{text} The search has found nothing better than chance."


def require_trainable(config: SearchConfig) -> None:
    """Refuse, before the search, what could not be trained after it.

    Raises:
        OptionError: the recipe is refused, or the strategy or the devices are others than can be trained after.
    """
    if config.train is None:
        return
    _recipe(config.train)
    name, devices = config.strategy["name"], config.evaluator.trainer.get("devices", 1)
    if is_nnis(name):
        raise OptionError(f"train needs a posterior, and {name} leaves none: leave train out (--set train=null)")
    if not isinstance(config.data, DataConfig):
        raise OptionError("train trains classifiers of images, and the data are others: leave train out")
    if devices not in (1, "1"):
        raise OptionError(
            f"train follows a search on one device, and evaluator.devices is {devices}: leave train out, and run "
            "`balenas train RUN_DIR` afterwards"
        )


def train_beside_random(folder: RunFolder) -> BesideRandom:
    """Train the winner of a finished run and random architectures, in the sizes of the search; write `compared/`.

    What is in that folder already is not trained again. All begin with the run's seed.

    Args:
        folder: of the run, whose config has a section `train`.

    Raises:
        BalenasError: a file is damaged, or the network does not suit the recipe.
        KeyboardInterrupt: the user stopped it; another call goes on.
    """
    run = FinishedRun.load(folder)
    train, trainer, seed = run.config.train or TrainConfig(), run.config.evaluator.trainer, run.config.seed
    if run.config.threads is not None:
        torch.set_num_threads(run.config.threads)
    devices = Devices(accelerator=trainer.get("accelerator", "auto"))
    progress = trainer.get("enable_progress_bar", True)
    recipe, space, images = _recipe(train), run.exporter_space(), run.config.data
    assert isinstance(images, DataConfig)  # as `require_trainable` has seen
    data = load_training_data(images, recipe, progress=progress)

    def trained(architecture: Architecture, output: Path) -> TrainedNetwork:
        with random_numbers_restored(seed):
            network = space.build(architecture)
        how = {"devices": devices, "progress": progress, "described": {"architecture": dict(architecture)}}
        return train_network(network, data, recipe, folder=output, seed=seed, resume=True, **how)

    output = folder.path / "compared"
    winner = trained(folder.read_architectures()[0]["choices"], output / "winner")
    guess = Architectures(space.decisions, run.posterior.blind())
    drawn = islice(drawn_candidates(guess, _DRAWS * train.random, seed=seed), train.random)
    others = [trained(one.sample, output / f"random_{k}") for k, one in enumerate(drawn, start=1)]
    found = BesideRandom(
        winner=winner,
        random=others,
        recipe=recipe,
        images=(len(data.training), len(data.test)),
        seen=images.name == "folder" and "test" not in data.description["folders"],
    )
    write_text_atomically(output / "compared.json", json.dumps(found.to_dict(), indent=1) + "\n")
    return found


def _recipe(train: TrainConfig) -> Recipe:
    return load_recipe(train.recipe, [f"{name}={json.dumps(value)}" for name, value in train.options.items()])

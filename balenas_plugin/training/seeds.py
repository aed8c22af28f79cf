"""Train an architecture with several seeds: the work of `balenas train`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from balenas_plugin.config import apply_override
from balenas_plugin.data import DataConfig
from balenas_plugin.data.sources import SOURCES
from balenas_plugin.errors import OptionError
from balenas_plugin.options import read_options
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.training.architecture import find_architecture
from balenas_plugin.training.fitting import train_network
from balenas_plugin.training.recipe import Recipe, load_recipe
from balenas_plugin.training.trained_network import TrainResult
from balenas_plugin.training.training_data import TrainingData, load_training_data

Data = TrainingData | DataConfig | Mapping[str, Any] | str | os.PathLike[str]
"""Images to train on: loaded, as a config's section `data`, the name of a data set, or a folder of images."""


def train(
    architecture: str | Path | Callable[[], nn.Module],
    *,
    data: Data | None = None,
    recipe: str | Path | Recipe = "small",
    seeds: Sequence[int] = (0,),
    output: str | Path,
    overrides: Iterable[str] = (),
    rank: int = 1,
    warm_start: bool = False,
    resume: bool = False,
    progress: bool = True,
    **trainer: Any,
) -> TrainResult:
    """Train an architecture on all training images with one or several seeds, and test each network.

    The folder gets train.json (what is returned) and a folder seed_<seed> for each network (`train_network`).

    Args:
        architecture: the folder of a run, a file of `balenas export`, a notation of any space (NAS-Bench-201's string,
            a genotype, one of NAS-Bench-1Shot1), or a function that makes a network.
        data: to train and to test on; None: what the run searched on, or the digits.
        recipe: how; a name (`list_recipes`), a YAML file, or a recipe.
        seeds: each of the weights, the order of the images, their augmentation and dropped paths.
        output: folder to write to.
        overrides: "epochs=5", "optimizer.lr=0.1", "data.limit=100": of the recipe and the data, the later winning.
        rank: which of the architectures of a run or of a .json file.
        warm_start: begin with the weights of the supernet of a run, or with those beside a .py file.
        resume: go on with what is in the folder.
        progress: whether bars are shown.
        trainer: accelerator, devices, precision and num_workers, as for `train_network`.

    Raises:
        BalenasError: bad input; what is written already is whole.
        KeyboardInterrupt: the user stopped it; it can be resumed.
    """
    folder = Path(output)
    overrides = list(overrides)
    of_data = [text.removeprefix("data.") for text in overrides if text.startswith("data.")]
    recipe = load_recipe(recipe, [text for text in overrides if not text.startswith("data.")])
    found = find_architecture(architecture, rank=rank)
    build = found.inherited if warm_start else found.build
    if build is None:
        raise OptionError(
            "there are no weights to start from: --warm-start needs the folder of a run, or a .py file of `balenas "
            "export`"
        )
    if not seeds or len(set(seeds)) != len(seeds):
        raise OptionError(f"seeds must be different ones, at least one, got {list(seeds)}")
    loaded = data if isinstance(data, TrainingData) else _load(data or found.data, of_data, recipe, progress=progress)
    networks = []
    for seed in seeds:
        with random_numbers_restored(seed):
            network = build(recipe, loaded)
        networks.append(
            train_network(
                network,
                loaded,
                recipe,
                folder=folder / f"seed_{seed}",
                seed=seed,
                progress=progress,
                resume=resume,
                **trainer,
            )
        )
    result = TrainResult(networks=networks, folder=str(folder), architecture=found.title, recipe=recipe.name)
    result.save()
    return result


def _load(data: Any, overrides: Sequence[str], recipe: Recipe, *, progress: bool) -> TrainingData:
    match data:
        case DataConfig():
            document = asdict(data)
        case Mapping():
            document = dict(data)
        case None:
            document = {}
        case _:
            text = os.fspath(data)
            document = {"name": text} if text in SOURCES else {"name": "folder", "root": text}
    for override in overrides:
        apply_override(document, override)
    return load_training_data(read_options(DataConfig, document), recipe, progress=progress)

"""Train a network by a recipe, test it, and write what is known of it: the work of `balenas train` for one seed."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import safetensors.torch
import yaml
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, Timer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn

from balenas_plugin.config import differences, read_yaml
from balenas_plugin.data.text import TrainingTexts
from balenas_plugin.errors import FileFormatError, OptionError, first_line
from balenas_plugin.files import refused_writes_reported, write_atomically, write_text_atomically
from balenas_plugin.run_folder.location import is_first_process
from balenas_plugin.run_folder.marker import RunMarker
from balenas_plugin.training.checkpoints import BEST, LAST, RandomStates, StopEarly, WholeCheckpoints, read_checkpoint
from balenas_plugin.training.epochs import History, TrainingBar
from balenas_plugin.training.image_training import ImageTraining, TrainingLoaders
from balenas_plugin.training.language_models.text_training import AveragedFromPlateau, TextTraining, text_loaders
from balenas_plugin.training.measuring import deployed, measured_images, measured_module, measured_text, require_fit
from balenas_plugin.training.recipe import Recipe, load_recipe, require_images, usual_recipe
from balenas_plugin.training.trained_network import RESULT, TrainedNetwork
from balenas_plugin.training.training_data import TrainingData

SETTINGS = "train.yml"
METRICS = "metrics.csv"

_SEVERAL = "ddp_find_unused_parameters_true"
"""How several devices train together; an architecture may hold operations that nothing leads on from."""

_PATIENCE = 10.0  # seconds for the end of a process that was killed


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Where a network is trained.

    Args:
        accelerator: "cpu", "gpu", ... of Lightning's Trainer; "auto" takes the best there is.
        devices: how many train together, each with batches of its own; "auto": all.
        precision: of Lightning's Trainer, "bf16-mixed" for one.
        num_workers: processes that load images.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    precision: str = "32-true"
    num_workers: int = 0

    @property
    def helps(self) -> bool:
        """Whether this process helps a first one, which writes."""
        return self.devices not in (1, "1") and not is_first_process()


def train_network(
    network: nn.Module,
    data: TrainingData | TrainingTexts,
    recipe: Recipe | str | Path | None = None,
    *,
    folder: str | Path,
    seed: int = 0,
    progress: bool = True,
    resume: bool = False,
    devices: Devices = Devices(),  # it cannot change
    described: Mapping[str, Any] | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> TrainedNetwork:
    """Train a network on all training images, or a text, test it on others, and write both into a folder.

    The folder gets train.json (what is returned), weights.safetensors, metrics.csv (a row an epoch), last.ckpt and
    train.yml (the settings). A training that is killed at any moment and resumed ends as if it had not been, bit for
    bit on the CPU. The trained weights are left in `network`.

    Args:
        network: maps images ``(N, 3, H, W)`` to logits, or is as a `LanguageModel`; it begins with the weights that it
            has.
        data: to train and to test on.
        recipe: how; a name, a file, or a recipe; None: "small", or "text-small".
        folder: to write to; it must be empty, unless the training in it is resumed.
        seed: of the order of the images, their augmentation and dropped paths.
        progress: whether a bar is shown.
        resume: go on with the training in the folder; one that is finished is read.
        devices: where it is trained.
        described: more, of plain values, that a resumed training must have in common with this one.
        callbacks: of Lightning, besides its own.

    Raises:
        OptionError: the folder holds something, an option is refused, or the settings are others than those resumed.
        SpaceError: the network cannot take the images.
        NonFiniteLossError: the loss became NaN or infinite.
        StorageError: the disk is full; what was written before is whole.
    """
    recipe = load_recipe(recipe or usual_recipe(texts=isinstance(data, TrainingTexts)))
    module: pl.LightningModule
    loaders: dict[str, Any]
    if isinstance(data, TrainingTexts):
        module = text = TextTraining(network, recipe, vocabulary=len(data.class_names))
        loaders, measure = dict(text_loaders(data, recipe, seed=seed)), partial(measured_text, text)
    else:
        require_images(recipe)
        prepared = data.for_recipe(recipe, seed=seed)
        require_fit(network, prepared, recipe)
        module = images = ImageTraining(network, recipe, num_classes=len(data.class_names))
        share: dict[str, Any] = {"batch_size": recipe.batch_size, "seed": seed, "num_workers": devices.num_workers}
        loaders, measure = (
            {"datamodule": TrainingLoaders(prepared, **share)},
            partial(measured_images, images, prepared),
        )
    return train_module(
        module,
        recipe,
        folder=folder,
        loaders=loaders,
        network=network,
        seed=seed,
        progress=progress,
        resume=resume,
        devices=devices,
        described={"data": data.identity, **(described or {})},
        callbacks=callbacks,
        measure=measure,
        metadata=data.task.to_dict(),
    )


def train_module(
    module: pl.LightningModule,
    recipe: Recipe | str | Path = "user-module",
    *,
    folder: str | Path,
    loaders: Mapping[str, Any] = {},
    network: nn.Module | None = None,
    seed: int = 0,
    progress: bool = True,
    resume: bool = False,
    devices: Devices = Devices(),  # it cannot change
    described: Mapping[str, Any] | None = None,
    callbacks: Sequence[pl.Callback] = (),
    measure: Callable[[], dict[str, Any]] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> TrainedNetwork:
    """Train any Lightning module as `train_network` does: its own steps and optimizer, the recipe's epochs.

    Args:
        module: with training_step and configure_optimizers; it is tested by test_step, or else by validation_step,
            which logs an accuracy (test_acc, val_acc, ...).
        recipe: its epochs, gradient clipping, moving average and early stopping count.
        folder: to write to.
        loaders: arguments of Lightning's `Trainer.fit`: train_dataloaders, val_dataloaders or datamodule, and
            test_dataloaders; empty where the module has its own.
        network: whose weights are written; None: all of the module's.
        seed: of everything random.
        progress: whether a bar is shown.
        resume: go on with the training in the folder.
        devices: where it is trained.
        described: more that a resumed training must have in common with this one.
        callbacks: of Lightning, besides its own.
        measure: returns what is known once it is tested, by the names of `TrainedNetwork`; None: what it has logged.
        metadata: what the file of weights says of its inputs and outputs.

    Raises:
        BalenasError: as for `train_network`.
    """
    recipe, folder = load_recipe(recipe), Path(folder)
    own = module if network is None else network
    settings = {
        "recipe": recipe.to_dict(),
        "seed": seed,
        "precision": devices.precision,
        "devices": devices.devices,
        "network": f"{type(own).__name__} of {sum(p.numel() for p in own.parameters()):,} parameters",
        **json.loads(json.dumps(described or {})),
    }
    quiet()
    with nullcontext() if devices.helps else RunMarker(folder).locked(_PATIENCE, folder=True):
        if not devices.helps:
            require_settings(folder, settings, resume=resume)
        if resume and (folder / RESULT).exists():
            found = TrainedNetwork.load(folder)
            deployed(own).load_state_dict(safetensors.torch.load_file(found.weights))
            return found
        pl.seed_everything(seed, workers=True, verbose=False)
        trainer = make_trainer(recipe, folder, progress=progress, devices=devices, callbacks=callbacks)
        if not devices.helps:
            write_text_atomically(folder / SETTINGS, yaml.safe_dump(settings, sort_keys=False))
        module.to(trainer.strategy.root_device)  # where the moving average is made too
        fit(trainer, module, {k: v for k, v in loaders.items() if k != "test_dataloaders"}, resume=resume)
        module.load_state_dict(read_checkpoint(folder / (BEST if recipe.early_stopping else LAST))["state_dict"])
        test(trainer, module, loaders)
        known = measured_module(module, deployed(own), trainer) if measure is None else measure()
        joined: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector sets it
        seconds = next(each for each in joined if isinstance(each, Timer)).time_elapsed("train")
        found = TrainedNetwork(**known, seconds=seconds, epochs=trainer.current_epoch, seed=seed, folder=str(folder))
        if trainer.is_global_zero:
            tensors = {name: value.detach().cpu().clone() for name, value in deployed(own).state_dict().items()}
            # one entry: safetensors writes several in any order
            content = safetensors.torch.save(tensors, {"about": json.dumps(metadata or {})})
            write_atomically(found.weights, lambda file: file.write(content))
            found.save()
        return found


def require_settings(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse a folder that holds something else than what is resumed.

    Raises:
        OptionError: it does.
        FileFormatError: what it says of itself is damaged.
    """
    path = folder / SETTINGS
    if not resume:
        if any(folder.iterdir()):
            raise OptionError(
                f"{folder} exists and is not empty: --resume continues the training in it, another --output leaves it "
                "alone"
            )
        return
    if not path.exists():
        if any(folder.iterdir()):
            raise OptionError(f"{folder} is not the folder of a training, as it has no {SETTINGS}: leave out --resume")
        return  # killed before it began
    try:
        difference = differences(read_yaml(path), settings)
    except OptionError as error:
        raise FileFormatError(f"{path} is damaged: {error}. Train anew, into another folder") from error
    if difference:
        raise OptionError(
            f"{folder} cannot be resumed with other settings: {difference}. Give the same ones, or another --output"
        )


def make_trainer(
    recipe: Recipe, folder: Path, *, progress: bool, devices: Devices, callbacks: Sequence[pl.Callback] = ()
) -> pl.Trainer:
    """Return Lightning's Trainer with the callbacks of a training, and others.

    Raises:
        OptionError: it refuses an option.
    """
    keeping: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    duration = None if recipe.max_seconds is None else timedelta(seconds=recipe.max_seconds)
    timer = Timer(duration, interval="epoch", verbose=False)
    joined: list[pl.Callback] = [RandomStates(), timer, History(folder / METRICS), *callbacks]
    joined += [TrainingBar("train")] if progress else []
    joined += [EMAWeightAveraging(decay=recipe.ema)] if recipe.ema is not None else []
    if recipe.text is not None and recipe.text.averaging is not None:
        joined += [AveragedFromPlateau(recipe.text.averaging)]
    if recipe.early_stopping is not None:
        better: dict[str, Any] = {
            "monitor": recipe.monitor,
            "mode": "min" if re.search("loss|perplexity", recipe.monitor) else "max",
        }
        joined += [
            StopEarly(**better, patience=recipe.early_stopping, check_on_train_epoch_end=True),
            ModelCheckpoint(**keeping, **better, filename=Path(BEST).stem, save_top_k=1),
        ]
    joined += [ModelCheckpoint(**keeping, filename=Path(LAST).stem)]
    options = {name: getattr(devices, name) for name in ("accelerator", "devices", "precision")}
    try:
        trainer = pl.Trainer(
            **options,
            strategy="auto" if devices.devices in (1, "1") else _SEVERAL,
            max_epochs=recipe.epochs,
            gradient_clip_val=recipe.gradient_clip_val or None,
            callbacks=joined,
            logger=TensorBoardLogger(folder, name="", version="tensorboard") if has_tensorboard() else False,
            default_root_dir=folder,
            plugins=[WholeCheckpoints()],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise OptionError(f"Lightning refuses {options}: {first_line(error)}") from error
    if trainer.precision.startswith("bf16") and devices.precision.startswith("16"):
        raise OptionError(
            f"precision {devices.precision} is for GPUs, and this is a training on the CPU: take bf16-mixed"
        )
    return trainer


def has_tensorboard() -> bool:
    """Return whether Lightning can write TensorBoard's files."""
    return any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX"))


def fit(trainer: pl.Trainer, module: pl.LightningModule, loaders: Mapping[str, Any], *, resume: bool) -> None:
    """Train, from the last checkpoint if there is one to resume from.

    Raises:
        KeyboardInterrupt: the user stopped it; it can be resumed.
        StorageError: the disk is full.
    """
    last = Path(trainer.default_root_dir, LAST)
    resumed = resume and last.exists()
    if resumed:
        read_checkpoint(last)
    try:
        with refused_writes_reported(last):
            trainer.fit(module, **loaders, ckpt_path=str(last) if resumed else None, weights_only=True)
    except SystemExit as error:  # Lightning's answer to Ctrl-C, and to SIGTERM
        raise KeyboardInterrupt from error


def test(trainer: pl.Trainer, module: pl.LightningModule, loaders: Mapping[str, Any]) -> None:
    """Test the module, by its validation where it has no test."""
    given = loaders.get("test_dataloaders", loaders.get("val_dataloaders"))
    own = {"datamodule": loaders["datamodule"]} if "datamodule" in loaders else {"dataloaders": given}
    (trainer.test if is_overridden("test_step", module) else trainer.validate)(module, **own, verbose=False)


def quiet() -> None:
    """Silence what Lightning says about itself."""
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch\.utils\.data|PIL)(\..*)?")
    for name in ("pytorch_lightning", "lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)

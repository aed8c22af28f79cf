"""Train a network by a recipe, test it, and write what is known of it: the work of `balenas train` for one seed."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import platform
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import safetensors.torch
import torch
import yaml
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, Timer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from balenas_plugin.config import differences, read_yaml
from balenas_plugin.costs.timing import median_seconds
from balenas_plugin.errors import DataError, FileFormatError, OptionError, SpaceError, first_line
from balenas_plugin.files import refused_writes_reported, write_atomically, write_text_atomically
from balenas_plugin.machine import processor
from balenas_plugin.proxies.flops import flops
from balenas_plugin.proxies.params import params
from balenas_plugin.restoring import untouched
from balenas_plugin.training.checkpoints import BEST, LAST, RandomStates, StopEarly, WholeCheckpoints, read_checkpoint
from balenas_plugin.training.epochs import History, TrainingBar
from balenas_plugin.training.image_training import TOP, ImageTraining, TrainingLoaders
from balenas_plugin.training.recipe import Recipe, load_recipe
from balenas_plugin.training.trained_network import RESULT, TrainedNetwork, wilson_interval
from balenas_plugin.training.training_data import TrainingData

SETTINGS = "train.yml"
METRICS = "metrics.csv"

_REPEATS = 30  # of which the latency is the median


def train_network(
    network: nn.Module,
    data: TrainingData,
    recipe: Recipe | str | Path = "small",
    *,
    folder: str | Path,
    seed: int = 0,
    progress: bool = True,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int | str = 1,
    precision: str = "32-true",
    num_workers: int = 0,
    most_seconds: float | None = None,
) -> TrainedNetwork:
    """Train a network on all training images, test it on the test images, and write both into a folder.

    The folder gets train.json (what is returned), weights.safetensors, metrics.csv (a row an epoch), last.ckpt and
    train.yml (the settings). A training that is killed at any moment and resumed ends as if it had not been, bit for
    bit on the CPU. The trained weights are left in `network`.

    Args:
        network: maps images ``(N, 3, H, W)`` to logits; it begins with the weights that it has.
        data: to train and to test on.
        recipe: how; a name, a file, or a recipe.
        folder: to write to; it must be empty, unless the training in it is resumed.
        seed: of the order of the images, their augmentation and dropped paths.
        progress: whether a bar is shown.
        resume: go on with the training in the folder; one that is finished is read.
        accelerator: of Lightning's Trainer.
        devices: of Lightning's Trainer; several train together, each with batches of its own.
        precision: of Lightning's Trainer, "bf16-mixed" for one.
        num_workers: processes that load images.
        most_seconds: end with the epoch in which so much time is up; what was spent before a resume counts.

    Raises:
        OptionError: the folder holds something, an option is refused, or the settings are others than those resumed.
        SpaceError: the network cannot take the images.
        StorageError: the disk is full; what was written before is whole.
    """
    recipe, folder = load_recipe(recipe), Path(folder)
    settings = {
        "recipe": recipe.to_dict(),
        "seed": seed,
        "precision": precision,
        "data": json.loads(json.dumps(data.description)),
        "network": f"{type(network).__name__} of {params(network, torch.empty(0)):,.0f} parameters",
    }
    require_settings(folder, settings, resume=resume)
    if resume and (folder / RESULT).exists():
        found = TrainedNetwork.load(folder)
        deployed(network).load_state_dict(safetensors.torch.load_file(found.weights))
        return found
    quiet()
    prepared = data.for_recipe(recipe, seed=seed)
    require_fit(network, prepared, recipe)
    pl.seed_everything(seed, workers=True, verbose=False)
    module = ImageTraining(network, recipe, num_classes=len(data.class_names))
    loaders = TrainingLoaders(prepared, batch_size=recipe.batch_size, seed=seed, num_workers=num_workers)
    trainer = make_trainer(
        recipe,
        folder,
        progress=progress,
        most_seconds=most_seconds,
        accelerator=accelerator,
        devices=devices,
        precision=precision,
    )
    write_text_atomically(folder / SETTINGS, yaml.safe_dump(settings, sort_keys=False))
    module.to(trainer.strategy.root_device)  # where the moving average is made too
    fit(trainer, module, loaders, resume=resume)
    weights = read_checkpoint(folder / (BEST if recipe.early_stopping else LAST))["state_dict"]
    module.load_state_dict(weights)
    trainer.test(module, datamodule=loaders, verbose=False)
    found = measured(module, prepared, trainer, seed=seed, folder=folder)
    if trainer.is_global_zero:
        tensors = {name: value.detach().cpu().clone() for name, value in deployed(network).state_dict().items()}
        write_atomically(found.weights, lambda file: file.write(safetensors.torch.save(tensors, data.task.metadata())))
        found.save()
    return found


def require_settings(folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Refuse a folder that holds something else than what is resumed.

    Raises:
        OptionError: it does.
    """
    path = folder / SETTINGS
    if not resume:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OptionError(
                f"{folder} exists and is not empty: --resume continues the training in it, another --output leaves it "
                "alone"
            )
        return
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
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


def require_fit(network: nn.Module, data: TrainingData, recipe: Recipe) -> None:
    """Refuse a network that cannot take the images, or has other outputs than there are classes.

    Raises:
        SpaceError: it does not fit.
    """
    count, classes = len(data.training), len(data.class_names)
    last = (count - 1) % recipe.batch_size + 1
    images = torch.zeros(min(last, 2), *data.image_shape, dtype=next(network.parameters()).dtype)
    try:
        with untouched(network), torch.no_grad():
            outputs = network.cpu().train()(images)
    except (RuntimeError, TypeError, ValueError) as error:
        cure = "; the last batch of an epoch is a single image: set batch_size to another number" if last == 1 else ""
        raise SpaceError(
            f"the network cannot be trained on images of shape {tuple(data.image_shape)}: {first_line(error)}"
            f"{cure or '. Check its sizes, and data.image_size.'}"
        ) from error
    lacking = {
        "auxiliary": recipe.auxiliary and not isinstance(outputs, tuple),
        "drop_path": recipe.drop_path and not hasattr(network, "new_epoch"),
    }
    for option in (name for name, lacks in lacking.items() if lacks):
        raise OptionError(
            f"the recipe's {option} is more than 0, which networks of the DARTS space have, and this one does not: set "
            f"{option} to 0, or take another recipe"
        )
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    if logits.shape[1] != classes:
        raise SpaceError(f"the network has {logits.shape[1]} outputs, and the data have {classes} classes")


def make_trainer(
    recipe: Recipe, folder: Path, *, progress: bool, most_seconds: float | None = None, **options: Any
) -> pl.Trainer:
    """Return Lightning's Trainer with the callbacks of a training.

    Raises:
        OptionError: it refuses an option.
    """
    keeping: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    timer = Timer(None if most_seconds is None else timedelta(seconds=most_seconds), interval="epoch", verbose=False)
    callbacks: list[pl.Callback] = [RandomStates(), timer, History(folder / METRICS)]
    callbacks += [TrainingBar("train")] if progress else []
    callbacks += [EMAWeightAveraging(decay=recipe.ema)] if recipe.ema is not None else []
    if recipe.early_stopping is not None:
        if not recipe.validation:
            raise OptionError("early_stopping needs images for validation: set validation to a share, 0.1 for example")
        callbacks += [
            StopEarly("val_acc", patience=recipe.early_stopping, mode="max", check_on_train_epoch_end=True),
            ModelCheckpoint(**keeping, filename=Path(BEST).stem, monitor="val_acc", mode="max", save_top_k=1),
        ]
    callbacks += [ModelCheckpoint(**keeping, filename=Path(LAST).stem)]
    boards = [name for name in ("tensorboard", "tensorboardX") if importlib.util.find_spec(name)]
    try:
        return pl.Trainer(
            **options,
            max_epochs=recipe.epochs,
            gradient_clip_val=recipe.gradient_clip_val or None,
            callbacks=callbacks,
            logger=TensorBoardLogger(folder, name="", version="tensorboard") if boards else False,
            default_root_dir=folder,
            plugins=[WholeCheckpoints()],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise OptionError(f"Lightning refuses {options}: {first_line(error)}") from error


def fit(trainer: pl.Trainer, module: pl.LightningModule, loaders: Any, *, resume: bool) -> None:
    """Train, from the last checkpoint if there is one to resume from.

    Raises:
        KeyboardInterrupt: the user stopped it; it can be resumed.
        StorageError: the disk is full.
    """
    folder = Path(trainer.default_root_dir)
    last = folder / LAST
    path = str(last) if resume and last.exists() else None
    if path is not None:
        read_checkpoint(last)
    try:
        with refused_writes_reported(folder):
            trainer.fit(module, datamodule=loaders, ckpt_path=path, weights_only=True)
    except SystemExit as error:  # Lightning's answer to Ctrl-C, and to SIGTERM
        raise KeyboardInterrupt from error


def measured(
    module: ImageTraining, data: TrainingData, trainer: pl.Trainer, *, seed: int, folder: Path
) -> TrainedNetwork:
    """Return what is known of a network that was trained and tested."""
    confusion = module.confusion.compute().cpu()
    images = int(confusion.sum())
    if not images:
        raise DataError("there are no test images")
    right = int(confusion.diag().sum())
    network = deployed(module.network).cpu().eval()
    image = torch.zeros(1, *data.image_shape)
    with torch.no_grad():
        seconds = median_seconds({"": lambda: network(image)}, repeats=_REPEATS)[""]
    timer = next(callback for callback in trainer.callbacks if isinstance(callback, Timer))
    return TrainedNetwork(
        test_accuracy=right / images,
        interval=wilson_interval(right, images),
        top5_accuracy=float(module.top5.compute()) if len(data.class_names) > TOP else None,
        confusion=confusion.tolist(),
        class_names=data.class_names,
        parameters=round(params(network, image)),
        multiply_adds=round(flops(network, image) / 2),
        latency_ms=1e3 * seconds,
        machine=f"{platform.node()} ({processor()})",
        seconds=timer.time_elapsed("train"),
        epochs=trainer.current_epoch,
        seed=seed,
        folder=str(folder),
    )


def deployed(network: nn.Module) -> nn.Module:
    """Return the network without the auxiliary head that it was trained with; it shares the weights."""
    if getattr(network, "auxiliary_head", None) is None:
        return network
    without = copy.copy(network)
    without._modules = {**network._modules, "auxiliary_head": None}
    return without


def quiet() -> None:
    """Silence what Lightning says about itself."""
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch\.utils\.data|PIL)(\..*)?")
    for name in ("pytorch_lightning", "lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)

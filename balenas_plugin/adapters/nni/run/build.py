"""Build NNI's model space and evaluator from a config."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nni.nas.hub.pytorch
import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import Lightning, Trainer
from nni.nas.nn.pytorch import ModelSpace
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader

from balenas_plugin.adapters.nni.run.tasks import task_of
from balenas_plugin.adapters.nni.strategies.nni_strategies import is_nnis
from balenas_plugin.adapters.nni.strategies.written_init import written_init
from balenas_plugin.config import EvaluatorConfig, SearchConfig
from balenas_plugin.errors import MissingDependencyError, OptionError, SpaceError, nearest
from balenas_plugin.options import given_options, joined_options, signature_options
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import IMAGE_CLASSIFICATION, find_space, list_spaces
from balenas_plugin.training.optimizers import construct, optimizer_factory, require_a_step

_TRAINER_OURS = {
    "max_epochs": "say evaluator.epochs",
    "default_root_dir": "say --output",
    "callbacks": "a config cannot hold them",
    "enable_checkpointing": "a run always keeps its last checkpoint",
    "num_sanity_val_steps": "a validation before the first epoch would change what a resumed search draws",
}
"""Trainer options that a run sets itself, and what to do instead."""

_MIN_PROCESSES = 16
_MAX_NODES = 4096


def build_space(options: Mapping[str, Any], *, num_classes: int) -> ModelSpace:
    """Return the supernet of a search space, a model space of NNI's hub, or the user's own by "module:Class".

    The number of classes is filled in where the space takes it as `num_labels` and the config does not give it.

    Raises:
        OptionError: the name or an option is unknown or refused.
        SpaceError: the class is not a model space.
    """
    arguments = {key: value for key, value in options.items() if key != "name"}
    supernet = space_class(options["name"])
    if "num_labels" in inspect.signature(written_init(supernet)).parameters and "num_labels" not in arguments:
        arguments["num_labels"] = num_classes
    checked = given_options(space_options(options["name"], supernet), arguments)
    return construct(f"space {options['name']}", supernet, checked)


def space_options(name: str, space: type[ModelSpace]) -> type[Any]:
    """Return the options of a space that a config calls `name`."""
    return signature_options(written_init(space), "space", called=f"space {name}")


def hub_spaces() -> dict[str, type[ModelSpace]]:
    """Return the spaces of NNI's hub by name."""
    found = vars(nni.nas.hub.pytorch).items()
    return {name: value for name, value in found if inspect.isclass(value) and issubclass(value, ModelSpace)}


def require_importable_elsewhere(name: str) -> None:
    """Refuse a space "module:Class" that only the working directory has: a run's folder may come from anyone.

    Raises:
        OptionError: the module is found nowhere else.
    """
    package = name.partition(":")[0].partition(".")[0]
    named = [Path(place).resolve() for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    here, path = Path.cwd().resolve(), list(sys.path)
    try:
        sys.path[:] = [place for place in path if here in named or Path(place).resolve() != here]
        found = package in sys.modules or importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        found = False
    finally:
        sys.path[:] = path
    if not found:
        raise OptionError(
            f"the run's space {name!r} is looked for in the working directory, but the run was not started here, so "
            "its module may be anything. Go where it was started (manifest.json names the directory); or, if you trust "
            "the module that is here, say PYTHONPATH=. before the command"
        )


def space_class(name: str) -> type[ModelSpace]:
    """Return the model space that a config calls so.

    Raises:
        OptionError: there is none, or it cannot be imported.
        SpaceError: it is no model space.
    """
    space = find_space(name)
    module_name, colon, class_name = (name if space is None else space.supernet).partition(":")
    if colon:
        if "" not in sys.path:
            sys.path.insert(0, "")  # a module in the working directory, as `python -m` would find it
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
            raise OptionError(
                f"space {name!r} cannot be imported: {error}. It is looked up as module:Class, in the working "
                "directory first."
            ) from error
    else:
        hub = hub_spaces()
        if name not in hub:
            raise OptionError(
                f"space {name!r} is unknown{nearest(name, [*list_spaces(), *hub])} Spaces: {', '.join(list_spaces())}. "
                f"Spaces of NNI's hub: {', '.join(sorted(hub))}; your own: module:Class"
            )
        found = hub[name]
    if not (inspect.isclass(found) and issubclass(found, ModelSpace)):
        raise SpaceError(f"space {name!r} is not a subclass of nni.nas.nn.pytorch.ModelSpace")
    return found


def build_evaluator(config: SearchConfig, data: Any, folder: RunFolder, callbacks: list[Any]) -> Lightning:
    """Return NNI's Lightning evaluator: the task of the data, on their two halves.

    Raises:
        OptionError: an option of the optimizer or the trainer is unknown or refused.
    """
    evaluator = config.evaluator
    for name, instead in _TRAINER_OURS.items():
        if name in evaluator.trainer:
            raise OptionError(f"evaluator.{name} is set by the run itself: {instead}")
    if not is_nnis(config.strategy["name"]) and "check_val_every_n_epoch" in evaluator.trainer:
        raise OptionError(
            "evaluator.check_val_every_n_epoch is set by the strategy: say strategy.validate_every_n_epochs"
        )
    given = given_options(evaluator_options(), evaluator.trainer)
    for name in ("limit_train_batches", "val_check_interval"):
        if evaluator.trainer.get(name) == 0:
            raise OptionError(f"evaluator.{name} must be more than 0, got {evaluator.trainer[name]!r}; or leave it out")
    make_optimizer = optimizer_factory(evaluator.optimizer, "evaluator.optimizer")
    task = task_of(config)
    module = task.module(
        make_optimizer=make_optimizer,
        schedule=asdict(evaluator.schedule),
        num_classes=data.num_classes,
    )
    given.pop("enable_progress_bar", None)  # see run.py
    trainer = construct("evaluator", _trainer(evaluator, folder, callbacks), given)
    _require_startable(trainer)
    require_a_step(make_optimizer, trainer.strategy.root_device, "evaluator.optimizer")
    if trainer.world_size > 1 and is_nnis(config.strategy["name"]):
        raise OptionError(
            f"evaluator.devices: strategy {config.strategy['name']} searches on one device, got {trainer.world_size} "
            "of them; strategies of this package keep one architecture over several"
        )
    if is_nnis(config.strategy["name"]) and getattr(config.data, "lengths", "fixed") != "fixed":
        raise OptionError(
            f"data.lengths must be fixed for {config.strategy['name']}, whose steps know no learning rate for each "
            "sequence; strategies of this package do"
        )
    weight_loader, architecture_loader = task.loaders(
        config.data, data, seed=config.seed, device=trainer.strategy.root_device, verbose=trainer.is_global_zero
    )
    if trainer.overfit_batches and not isinstance(weight_loader, DataLoader):
        images = task.name == IMAGE_CLASSIFICATION
        instead = "set data.on_device to false" if images else "a text has none; set data.limit"
        raise OptionError(f"evaluator.overfit_batches needs a DataLoader: {instead}")
    return Lightning(module, trainer, train_dataloaders=weight_loader, val_dataloaders=architecture_loader)


def _trainer(evaluator: EvaluatorConfig, folder: RunFolder, callbacks: list[Any]) -> Callable[..., Any]:
    """Return NNI's Trainer with the run's own options; the config's are still to be given."""
    own = {
        "max_epochs": evaluator.epochs,
        "default_root_dir": str(folder.path),
        "logger": _logger(evaluator.logger, folder),
        "callbacks": callbacks,
        "enable_progress_bar": False,  # the callbacks hold our own
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "devices": 1,
    }
    return lambda **given: Trainer(**{**own, **given})


def evaluator_options() -> type[Any]:
    """Return the options of the section `evaluator`: its own, and Lightning's for its Trainer."""
    trainer = signature_options(pl.Trainer, without=_TRAINER_OURS)
    return joined_options("Evaluator", EvaluatorConfig, trainer, where="evaluator", without=("trainer",))


def _require_startable(trainer: pl.Trainer) -> None:
    """Refuse more processes than a machine, or a cluster, can have."""
    processors = max(_MIN_PROCESSES, os.cpu_count() or 1)
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > processors:
        raise OptionError(
            f"evaluator.devices: {trainer.num_devices} processes on the CPU are more than the {processors} that this "
            "machine can run at a time"
        )
    if trainer.num_nodes > _MAX_NODES:
        raise OptionError(f"evaluator.num_nodes must be at most {_MAX_NODES}, got {trainer.num_nodes}")
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise OptionError(
            f"evaluator.num_nodes is {trainer.num_nodes}, but nothing says where the first machine is, so this one "
            "would wait for the others: start the search with torchrun or Slurm, or set MASTER_ADDR and NODE_RANK"
        )


def _logger(name: str, folder: RunFolder) -> Any:
    if name == "none":
        return False
    if name == "csv":
        return CSVLogger(folder.logs, name=None)
    try:
        return TensorBoardLogger(folder.logs, name=None)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "evaluator.logger tensorboard needs a package that is not installed: pip install tensorboard"
        ) from error

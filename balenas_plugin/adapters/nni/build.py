"""Build NNI's model space, strategy and evaluator from a config."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import nni.nas.hub.pytorch
import nni.nas.strategy
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from nni.nas.hub.pytorch import NasBench201
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from balenas_plugin.adapters.nni.classification import ClassificationModule
from balenas_plugin.adapters.nni.strategy import BaLeNAS
from balenas_plugin.adapters.nni.supernet import architecture_parameters
from balenas_plugin.config import SearchConfig, require_keys
from balenas_plugin.data import SearchData, collate
from balenas_plugin.errors import BalenasError, MissingDependencyError, OptionError, SpaceError, nearest
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import nasbench201

STRATEGIES: dict[str, type[OneShotStrategy]] = {
    "BaLeNAS": BaLeNAS,
    **{
        name: getattr(nni.nas.strategy, name) for name in ("DARTS", "GumbelDARTS", "Proxyless", "RandomOneShot", "ENAS")
    },
}

_TRAINER_OURS = ("max_epochs", "logger", "callbacks", "default_root_dir", "enable_checkpointing", "enable_progress_bar")
"""Trainer options that a run sets itself."""


def build_space(options: Mapping[str, Any], *, num_classes: int) -> ModelSpace:
    """Return a model space of NNI's hub by its name, or the user's own by "module:Class".

    The number of classes is filled in where the space takes it as `num_labels` and the config does not give it.

    Raises:
        OptionError: the name or an option is unknown or refused.
        SpaceError: the class is not a model space.
    """
    arguments = {key: value for key, value in options.items() if key != "name"}
    space_class = _space_class(options["name"])
    if "num_labels" in inspect.signature(_written_init(space_class)).parameters and "num_labels" not in arguments:
        arguments["num_labels"] = num_classes
    return _construct(f"space {options['name']}", space_class, arguments)


def _space_class(name: str) -> type[ModelSpace]:
    module_name, colon, class_name = name.partition(":")
    if colon:
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise OptionError(
                f"space {name!r} cannot be imported: {error}. It is looked up as module:Class."
            ) from error
    else:
        hub = {
            key: value
            for key, value in vars(nni.nas.hub.pytorch).items()
            if inspect.isclass(value) and issubclass(value, ModelSpace)
        }
        if name not in hub:
            raise OptionError(
                f"space {name!r} is unknown{nearest(name, hub)} Spaces of NNI's hub: {', '.join(sorted(hub))}; "
                "your own: module:Class"
            )
        found = hub[name]
    if not (inspect.isclass(found) and issubclass(found, ModelSpace)):
        raise SpaceError(f"space {name!r} is not a subclass of nni.nas.nn.pytorch.ModelSpace")
    return found


def build_strategy(options: Mapping[str, Any]) -> OneShotStrategy:
    """Return `BaLeNAS` or one of NNI's one-shot strategies by name.

    Raises:
        OptionError: the name or an option is unknown or refused.
    """
    name = options["name"]
    if name not in STRATEGIES:
        raise OptionError(
            f"strategy {name!r} is unknown{nearest(name, STRATEGIES)} Strategies: {', '.join(STRATEGIES)}"
        )
    arguments = {key: value for key, value in options.items() if key != "name"}
    strategy = _construct(f"strategy {name}", STRATEGIES[name], arguments, also=_inherited_options(STRATEGIES[name]))
    if not isinstance(strategy, BaLeNAS):
        _order_by_label(strategy)
    return strategy


def _inherited_options(strategy_class: type) -> tuple[str, ...]:
    """Keyword options of the base classes, which NNI passes through **kwargs."""
    names: dict[str, None] = {}
    for base in strategy_class.__mro__:
        if base is not object and "__init__" in vars(base):
            for parameter in inspect.signature(base.__init__).parameters.values():
                if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in (
                    "self",
                    "model_space",
                    "engine",
                ):
                    names[parameter.name] = None
    return tuple(names)


def _order_by_label(strategy: OneShotStrategy) -> None:
    """Give NNI's own differentiable strategies parameters in label order: theirs depends on addresses (no resume)."""
    configure = strategy.configure_oneshot_module

    def configured(training_module: Any) -> Any:
        module = configure(training_module)
        if isinstance(module, DartsLightningModule):
            module.arch_parameters = lambda: list(architecture_parameters(module).values())
        return module

    strategy.configure_oneshot_module = configured


def build_evaluator(config: SearchConfig, data: SearchData, folder: RunFolder, callbacks: list[Any]) -> Lightning:
    """Return NNI's Lightning evaluator: image classification on the two halves of the data.

    Raises:
        OptionError: an option of the optimizer or the trainer is unknown or refused.
    """
    evaluator = config.evaluator
    require_keys("evaluator", evaluator.trainer, _trainer_options())
    module = ClassificationModule(
        make_optimizer=_optimizer_factory(evaluator.optimizer),
        schedule=dict(evaluator.schedule),
        num_classes=data.num_classes,
    )
    trainer_options = {"enable_model_summary": False, "num_sanity_val_steps": 0, **evaluator.trainer}
    trainer = _construct(
        "evaluator",
        Trainer,
        {
            **trainer_options,
            "max_epochs": evaluator.epochs,
            "default_root_dir": str(folder.path),
            "logger": _logger(evaluator.logger, folder),
            "callbacks": callbacks,
            "enable_progress_bar": False,
        },
    )
    loader_options = {
        "batch_size": config.data.batch_size,
        "num_workers": config.data.num_workers,
        "persistent_workers": False,
        "collate_fn": collate,
    }
    return Lightning(
        module,
        trainer,
        train_dataloaders=DataLoader(data.weight_set, shuffle=True, **loader_options),
        val_dataloaders=DataLoader(data.architecture_set, shuffle=True, **loader_options),
    )


def _trainer_options() -> tuple[str, ...]:
    allowed = [name for name in inspect.signature(pl.Trainer.__init__).parameters if name != "self"]
    return tuple(name for name in (*allowed, "epochs", "optimizer", "schedule", "logger") if name not in _TRAINER_OURS)


def _optimizer_factory(options: Mapping[str, Any]) -> Callable[[Any], torch.optim.Optimizer]:
    arguments = {key: value for key, value in options.items() if key != "name"}
    classes = {
        name: value
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    if options["name"] not in classes:
        raise OptionError(
            f"evaluator.optimizer {options['name']!r} is unknown{nearest(options['name'], classes)} Optimizers of "
            f"torch.optim: {', '.join(sorted(classes))}"
        )

    def make(parameters: Any) -> torch.optim.Optimizer:
        return _construct("evaluator.optimizer", classes[options["name"]], arguments, parameters)

    make([torch.zeros(1, requires_grad=True)])  # refuse bad options now, not when training starts
    return make


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


def _construct(
    what: str, factory: Callable[..., Any], arguments: Mapping[str, Any], *positional: Any, also: tuple[str, ...] = ()
) -> Any:
    """Call `factory` with checked keywords; what it refuses becomes one clear error."""
    parameters = inspect.signature(_written_init(factory)).parameters
    open_ended = also == () and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not open_ended:
        named = [n for n, p in parameters.items() if n not in ("self", "params", "args", "kwargs")]
        require_keys(what, arguments, dict.fromkeys([*named, *also]))
    try:
        return factory(*positional, **arguments)
    except BalenasError:
        raise
    except (TypeError, ValueError, AssertionError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise OptionError(f"{what} does not accept {dict(arguments)}: {error}") from error


def _written_init(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Return the constructor as its author wrote it: NNI hides it in the closures of its own wrappers."""
    function = factory.__init__ if inspect.isclass(factory) else factory
    while getattr(function, "__name__", "") in ("new_init", "init_with_context"):
        function = next(cell.cell_contents for cell in function.__closure__ if inspect.isfunction(cell.cell_contents))
    return function


def notations(space: ModelSpace, sample: Mapping[str, Any]) -> dict[str, str]:
    """Return the space's own notations of a sample: name of the notation -> text."""
    if isinstance(space, NasBench201):
        return {"nasbench201": nasbench201.format_string(nasbench201.from_nni(sample))}
    return {}

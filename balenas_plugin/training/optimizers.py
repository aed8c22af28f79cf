"""Optimizers of torch by name, with their options checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from balenas_plugin.errors import BalenasError, OptionError, first_line, nearest, quoted
from balenas_plugin.options import given_options, signature_options
from balenas_plugin.training.recipe import Recipe

_UNFIT_OPTIMIZERS = ("LBFGS", "SparseAdam")
"""Optimizers that need a closure, or sparse gradients."""


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Return the optimizers that can train the weights, by name."""
    return {
        name: value
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
        and name not in _UNFIT_OPTIMIZERS
    }


def optimizer_options(optimizer: type[torch.optim.Optimizer], where: str) -> type[Any]:
    """Return the options of one of `optimizers`, that messages name after `where`."""
    return signature_options(optimizer, where, called=f"{where} {optimizer.__name__}", without=("params",))


def optimizer_factory(options: Mapping[str, Any], where: str) -> Callable[[Any], torch.optim.Optimizer]:
    """Return what makes an optimizer of parameters.

    Args:
        options: "name", a class in torch.optim, and options of its constructor.
        where: what messages call them.

    Raises:
        OptionError: the name is unknown, or an option is unknown or refused.
    """
    arguments = {key: value for key, value in options.items() if key != "name"}
    classes = optimizers()
    if options["name"] not in classes:
        raise OptionError(
            f"{where} {options['name']!r} is unknown{nearest(options['name'], classes)} Optimizers of "
            f"torch.optim: {', '.join(sorted(classes))}"
        )

    checked = given_options(optimizer_options(classes[options["name"]], where), arguments)

    def make(parameters: Any) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = construct(where, classes[options["name"]], checked, parameters)
        return made

    make([torch.zeros(1, requires_grad=True)])  # refuse bad options now, not when training starts
    return make


def scheduled(module: pl.LightningModule, make: Callable[[Any], torch.optim.Optimizer], recipe: Recipe) -> Any:
    """Return an optimizer of a module's parameters, with a recipe's learning rate for every step, as Lightning asks."""
    optimizer = make(module.parameters())
    lr = float(optimizer.param_groups[0]["lr"])
    steps = int(module.trainer.estimated_stepping_batches) // recipe.epochs

    def factor(step: int) -> float:
        return recipe.schedule.at(step, lr=lr, epochs=recipe.epochs, steps_per_epoch=steps) / lr if lr else 0.0

    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return [optimizer], [{"scheduler": rates, "interval": "step"}]


def require_a_step(make: Callable[[Any], torch.optim.Optimizer], device: torch.device, where: str) -> None:
    """Refuse options with which an optimizer can be made, but takes no step.

    Raises:
        OptionError: it takes none.
    """
    parameter = torch.zeros(1, device=device, requires_grad=True)
    parameter.grad = torch.ones_like(parameter)
    optimizer = make([parameter])
    try:
        optimizer.step()
    except Exception as error:  # whatever torch stumbles over
        raise OptionError(
            f"{where} {type(optimizer).__name__} takes no step with its options "
            f"({first_line(error)}). Change or leave out the ones that are not its defaults."
        ) from error


def construct(what: str, factory: Callable[..., Any], arguments: Mapping[str, Any], *positional: Any) -> Any:
    """Return ``factory(*positional, **arguments)``.

    Args:
        what: what is being made, for messages.
        factory: a class or function.
        arguments: from the config, checked.
        positional: not from the config.

    Raises:
        OptionError: the arguments are refused.
    """
    try:
        return factory(*positional, **arguments)
    except BalenasError:
        raise
    except (
        TypeError,
        ValueError,
        AssertionError,
        RuntimeError,
        ArithmeticError,
        LookupError,
        MemoryError,
        pl.utilities.exceptions.MisconfigurationException,
    ) as error:
        raise OptionError(f"{what} does not accept {quoted(dict(arguments))}: {str(error)[:500]}") from error

"""A distribution as a user chooses it: which one, with which options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.errors import BalenasError, OptionError, quoted
from balenas_plugin.validation import require_flag, require_whole

_OURS = ("parameters", "seed", "optimizer")  # given by the search


def options_of(distribution: type[Distribution]) -> dict[str, inspect.Parameter]:
    """Return the options that users may give to a distribution: keyword arguments of its constructor and its bases'."""
    found: dict[str, inspect.Parameter] = {}
    for base in distribution.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters
        for name, parameter in parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and name not in _OURS:
                found.setdefault(name, parameter)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            break  # it passes nothing on
    return found


class ChosenDistribution:
    """Makes a distribution once the parameters are there.

    Args:
        kind: the class.
        options: of its constructor.

    Raises:
        OptionError: an option has a wrong type or is refused.
    """

    def __init__(self, kind: type[Distribution], options: Mapping[str, Any]) -> None:
        self.kind, self.options = kind, dict(options)
        parameters = options_of(kind)
        for name, value in self.options.items():
            default = parameters[name].default
            if isinstance(default, bool):
                require_flag(name, value)
            elif isinstance(default, int):
                require_whole(name, value, least=1)
        try:
            self({"": torch.zeros(2)}, seed=0)
        except BalenasError:
            raise
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"the distribution {kind.name} does not accept {quoted(self.options)}: {error}"
            ) from error

    @property
    def name(self) -> str:
        """By which options and files call it."""
        return self.kind.name

    def __call__(self, parameters: Mapping[str, Tensor], *, seed: int) -> Distribution:
        """Return the distribution over label -> parameters, shape (K,) each."""
        return self.kind(parameters, seed=seed, **self.options)

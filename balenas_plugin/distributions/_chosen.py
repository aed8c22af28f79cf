"""A distribution as a user chooses it: which one, with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.distributions._distribution import Distribution
from balenas_plugin.errors import BalenasError, OptionError, quoted
from balenas_plugin.options import given_options, signature_options


@cache
def distribution_options(kind: type[Distribution]) -> type[Any]:
    """Return the options that users may give to a distribution: those of its constructor and its bases'.

    Raises:
        OptionError: it has no name.
    """
    if not hasattr(kind, "name"):
        raise OptionError(f"the distribution {kind.__name__} has no name: set its class attribute `name`")
    given_by_the_search = ("parameters", "seed", "optimizer")
    return signature_options(kind, called=f"the distribution {kind.name}", without=given_by_the_search)


class ChosenDistribution:
    """Makes a distribution once the parameters are there.

    Args:
        kind: the class.
        options: of its constructor.
        lr: its learning rate, if it has one.

    Raises:
        OptionError: an option has a wrong type or is refused.
    """

    def __init__(self, kind: type[Distribution], options: Mapping[str, Any], *, lr: float | None = None) -> None:
        known = distribution_options(kind)
        has_rate = lr is not None and kind.learns and "lr" in {field.name for field in fields(known)}
        self.kind, self.options = kind, given_options(known, {**options, **({"lr": lr} if has_rate else {})})
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

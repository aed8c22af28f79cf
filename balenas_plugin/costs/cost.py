"""How a cost joins the loss that an architecture is searched by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from balenas_plugin.costs.table import CostTable, Measure
from balenas_plugin.errors import OptionError
from balenas_plugin.options import NonNegative, Positive, declared_options

Form = Literal["add#linear", "mul#log"]

_WEIGHTS: dict[Form, float] = {"add#linear": 0.1, "mul#log": 0.2}
"""As in ProxylessNAS's search."""


@declared_options("cost", called="cost")
@dataclass(frozen=True, kw_only=True)
class CostOptions:
    """A cost of the architecture, expected under the distribution that is learned.

    Args:
        name: "latency", of a table that `balenas latency` has measured; "flops", operations of one example (a
            multiply-add is two); or "params".
        reference: a cost that is aimed at, in the unit of the table, in operations or in parameters.
        table: file of the latencies.
        form: "add#linear": loss + weight (cost / reference - 1); "mul#log": weight loss (log cost / log reference) to
            the power of `exponent`.
        weight: 0.1 for "add#linear" and 0.2 for "mul#log" if nothing is given.
        exponent: of "mul#log".
        other_machine: take latencies that were measured on another machine.

    Raises:
        OptionError: an option has a wrong type or is out of range.

    Source: Cai, Zhu and Han 2019 (ProxylessNAS), whose code names the forms so.
    """

    name: Measure
    reference: Positive
    table: str | None = None
    form: Form = "add#linear"
    weight: NonNegative | None = None
    exponent: NonNegative = 0.3
    other_machine: bool = False

    def __post_init__(self) -> None:
        if (self.name == "latency") != (self.table is not None):
            raise OptionError(
                "cost: latency needs the table that `balenas latency CONFIG` measures"
                if self.table is None
                else f"cost: {self.name} is counted, so it takes no table"
            )
        if self.form == "mul#log" and self.reference <= 1:
            raise OptionError(
                f"cost.reference must be more than 1 for the form mul#log, which divides by its logarithm, got "
                f"{self.reference:g}: use the form add#linear, or a table in a smaller unit (balenas latency --unit us)"
            )

    def require_logarithms(self, table: CostTable) -> None:
        """Raise OptionError if an architecture can cost 1 or less where the logarithm of the cost is needed."""
        if self.form == "mul#log" and table.least <= 1:
            raise OptionError(
                f"the form mul#log takes the logarithm of the cost, which can fall to {table.least:.3g} {table.unit}: "
                "use the form add#linear, or a table in a smaller unit (balenas latency --unit us)"
            )

    def joined(self, loss: Tensor, expected: Tensor) -> Tensor:
        """Return the loss with the cost.

        Args:
            loss: scalar.
            expected: the expected cost, scalar, in the unit of `reference`.
        """
        weight = _WEIGHTS[self.form] if self.weight is None else self.weight
        if self.form == "add#linear":
            return loss + weight * (expected / self.reference - 1)
        return weight * loss * (expected.log() / math.log(self.reference)) ** self.exponent

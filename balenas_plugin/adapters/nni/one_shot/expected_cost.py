"""The cost of the architecture in a search: of a table, or NNI's penalty; both reach what is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.adapters.nni.candidates.sizes import counted, number_of_parameters
from balenas_plugin.adapters.nni.one_shot.metrics import undisturbed
from balenas_plugin.adapters.nni.one_shot.search_options import SearchOptions
from balenas_plugin.adapters.nni.supernets.parameters import choice_names
from balenas_plugin.costs import CostOptions, CostTable
from balenas_plugin.distributions import Weights
from balenas_plugin.restoring import random_numbers_restored


def cost_of(module: Any, options: SearchOptions) -> ExpectedCost | ProfilerPenalty | None:
    """Return what joins the loss of the architecture in the search of a one-shot module, None if nothing does."""
    if options.cost is not None:
        return ExpectedCost(module, options.cost)
    return None if options.penalty is None else ProfilerPenalty(module, options.penalty)


class ExpectedCost:
    """Joins the expected cost of a table to the loss: that of the space as it is given, and so of what is found in it.

    Args:
        module: of the search.
        options: of the cost.

    Raises:
        OptionError: the table is of another space.
    """

    def __init__(self, module: Any, options: CostOptions) -> None:
        self._module, self._options = module, options
        self._table: CostTable | None = None
        self._columns: Tensor | None = None
        self._labels: Sequence[str] = ()
        if options.table is not None:
            with random_numbers_restored():
                self._read(CostTable.load(options.table), module.as_given())

    def prepare(self, batch: Any) -> None:
        """Count what is not measured, on the first batch."""
        if self._table is not None:
            return
        module, evaluators = self._module, self._module.training_module
        with undisturbed(module, seed=0), module.trainer.precision_plugin.forward_context():
            searched, given = evaluators.model, module.as_given().to(module.device)
            evaluators.set_model(given)
            try:
                table = counted(given, self._options.name, lambda: module.silent_loss(batch, 0))
            finally:
                evaluators.set_model(searched)
        self._read(table, given)

    def _read(self, table: CostTable, space: nn.Module) -> None:
        path = str(self._options.table)
        if table.machine and not self._options.other_machine:
            table.require_this_machine(path, torch.cuda.get_device_name() if torch.cuda.is_available() else None)
        rows = table.rows(type(space).__name__, number_of_parameters(space), choice_names(space), path=path)
        self._options.require_logarithms(table)
        self._table, self._labels = table, list(rows)
        self._columns = torch.tensor([cost for row in rows.values() for cost in row])

    def __call__(self, loss: Tensor, expected: Weights) -> Tensor:
        """Return the loss with the cost that is expected under the weights."""
        assert self._table is not None
        assert self._columns is not None
        weights = torch.cat([expected[label] for label in self._labels])
        self._columns = self._columns.to(weights)
        cost = self._table.fixed + self._columns @ weights
        total = self._options.joined(loss, cost)
        self._module.log_dict({"cost/expected": cost.detach(), "cost/loss": loss.detach()})
        return total


class ProfilerPenalty:
    """Joins NNI's `ExpectationProfilerPenalty` to the loss: with tensors, as floats would give it no gradient.

    Args:
        module: of the search.
        penalty: NNI's.
    """

    def __init__(self, module: Any, penalty: Any) -> None:
        self._module, self._penalty = module, penalty
        self._names = {label: list(choices) for label, choices in module.export_probs().items()}

    def prepare(self, batch: Any) -> None:
        """Do nothing: a profiler has seen its space already."""

    def __call__(self, loss: Tensor, expected: Weights) -> Tensor:
        """Return the loss with the penalty that is expected under the weights."""
        probabilities = {
            label: dict(zip(names, expected[label], strict=False))
            for label, names in self._names.items()
            if label in expected
        }
        total, details = self._penalty(loss, probabilities)
        self._module.log_dict({f"penalty/{key}": value for key, value in details.items()})
        return total

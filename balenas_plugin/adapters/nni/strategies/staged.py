"""The part of a strategy that a schedule edits: it makes the supernet anew, deeper if need be."""

from __future__ import annotations

import inspect
from typing import Any

from nni.nas.evaluator.pytorch import Lightning
from nni.nas.nn.pytorch import ModelSpace

from balenas_plugin.adapters.nni.callbacks.stages import Stages
from balenas_plugin.adapters.nni.strategies.construct import written_init
from balenas_plugin.adapters.nni.strategies.kept_evaluator import SearchStrategy
from balenas_plugin.adapters.nni.supernets.fused import fusion_report
from balenas_plugin.schedules import Schedule
from balenas_plugin.schedules.p_darts import DEPTH_ARGUMENTS


class StagedStrategy(SearchStrategy):
    """A search that a schedule may edit between its epochs."""

    schedule: Schedule | None = None

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Wrap the evaluator's module, and let the schedule watch it."""
        mutated = super().mutate_evaluator(evaluator)
        if self.schedule is not None:
            stages = Stages(self.schedule, self._anew, lambda: depth_of(self.supernet)[1])
            mutated.module.stages = stages
            mutated.trainer.callbacks.insert(0, stages)
        return mutated

    def fusion_report(self) -> dict[str, str]:
        """Return name of each mixed module of the supernet -> how its candidates are computed."""
        return fusion_report(self.supernet)

    def _anew(self, depth: int | None) -> ModelSpace:
        """Make a new supernet, of this depth if one is given."""
        supernet: Any = self.supernet
        changed = {} if depth is None else {depth_of(supernet)[0]: depth}
        space = type(supernet)(*supernet.trace_args, **{**supernet.trace_kwargs, **changed})
        self._mutated_model_space.model_space = self.mutate_model(space)
        return self.supernet


def depth_of(space: Any) -> tuple[str, int | None]:
    """Return the argument of a space's constructor that is its depth, and the depth; None if there is no such one."""
    parameters = inspect.signature(written_init(type(space))).parameters
    for name in DEPTH_ARGUMENTS:
        if name in parameters:
            value = space.trace_kwargs.get(name, parameters[name].default)
            if isinstance(value, int):
                return name, value
    return "", None

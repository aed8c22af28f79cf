"""The part of a strategy that a schedule edits: it makes the supernet anew, deeper if need be."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

from nni.nas.evaluator.pytorch import Lightning
from nni.nas.nn.pytorch import ModelSpace

from balenas_plugin.adapters.nni.callbacks.stages import Stages, make_in
from balenas_plugin.adapters.nni.strategies.kept_evaluator import SearchStrategy
from balenas_plugin.adapters.nni.strategies.written_init import written_init
from balenas_plugin.adapters.nni.supernets.fused import fusion_report
from balenas_plugin.schedules import Anew, Keep, Schedule, Widen
from balenas_plugin.schedules.p_darts import DEPTH_ARGUMENTS


class StagedStrategy(SearchStrategy):
    """A search that a schedule may edit between its epochs."""

    schedule: Schedule | None = None

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Wrap the evaluator's module, and let the schedule watch it."""
        mutated = super().mutate_evaluator(evaluator)
        if self.schedule is not None:
            stages = Stages(self.schedule, self._anew, lambda: depths_of(self.supernet))
            mutated.module.stages = stages
            mutated.trainer.callbacks.insert(0, stages)
        return mutated

    def fusion_report(self) -> dict[str, str]:
        """Return name of each mixed module of the supernet -> how its candidates are computed."""
        return fusion_report(self.supernet)

    def as_edited(self, space: ModelSpace, state: Any, epoch: int) -> tuple[ModelSpace, ModelSpace]:
        """Return a space and its supernet as the schedule of a search had made them when an epoch began.

        Args:
            space: as configured; the returned one is of another depth if the search was.
            state: of the search, in its checkpoint.
            epoch: from 0.
        """
        edits = []
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
            edits = self.schedule.network_edits(epoch)
        for anew in (edit for edit in edits if isinstance(edit, Anew)):
            space = _built(space, anew.depth)
        supernet = self.mutate_model(copy.deepcopy(space))
        for edit in edits:
            if isinstance(edit, Keep | Widen):
                make_in(supernet, edit, int)  # any numbers: weights are loaded next
        return space, supernet

    def _anew(self, depth: int | None) -> ModelSpace:
        """Make a new supernet, of this depth if one is given."""
        supernet: Any = self.supernet
        self._mutated_model_space.model_space = self.mutate_model(_built(supernet, depth))
        return self.supernet


def depths_of(space: Any) -> Sequence[int]:
    """Return at which depths a space has all of its choices, up to its own; none if its constructor takes no depth."""
    own = _depth_of(space)[1]
    if own is None:
        return ()
    labels = _built(space, own).simplify().keys()
    least = next(depth for depth in range(1, own + 1) if _built(space, depth).simplify().keys() == labels)
    return range(least, own + 1)


def _built(space: Any, depth: int | None) -> Any:
    """Return a space like a given one, of another depth if one is given."""
    changed = {} if depth is None else {_depth_of(space)[0]: depth}
    return type(space)(*space.trace_args, **{**space.trace_kwargs, **changed})


def _depth_of(space: Any) -> tuple[str, int | None]:
    """Return the argument of a space's constructor that is its depth, and the depth; None if there is no such one."""
    parameters = inspect.signature(written_init(type(space))).parameters
    for name in DEPTH_ARGUMENTS:
        if name in parameters:
            value = space.trace_kwargs.get(name, parameters[name].default)
            if isinstance(value, int):
                return name, value
    return "", None

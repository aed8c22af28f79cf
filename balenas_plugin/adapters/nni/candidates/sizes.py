"""Operations and parameters of every choice of a supernet, counted in one pass; the inputs that candidates get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from nni.nas.nn.pytorch import LayerChoice
from nni.nas.oneshot.pytorch.supermodule.differentiable import (
    DifferentiableMixedCell,
    DifferentiableMixedInput,
    DifferentiableMixedRepeat,
)
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from balenas_plugin.adapters.nni.candidates.operations import candidates
from balenas_plugin.adapters.nni.supernets.parameters import (
    architecture_parameters,
    choice_names,
    labelled_alphas,
    supernet_modules,
)
from balenas_plugin.costs import CostTable
from balenas_plugin.costs.table import Measure
from balenas_plugin.errors import SpaceError

Parts = Mapping[str, Mapping[str, Sequence[nn.Module]]]
"""label -> choice -> modules that it runs, in all places of the supernet."""

Counts = Mapping[nn.Module, float]


@dataclass
class Call:
    """What a module was called with first."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def parts_of(space: nn.Module) -> Parts:
    """Return what each choice of a supernet runs.

    Raises:
        SpaceError: that cannot be said choice by choice.
    """
    labels = {id(alpha): label for label, alpha in architecture_parameters(space).items()}
    names = choice_names(space)
    found: dict[str, dict[str, list[nn.Module]]] = {k: {name: [] for name in names[k]} for k in names}
    for label, places in candidates(space, labels).items():
        for place in places:
            for name, module in place:
                found[label][name].append(module)
    mixed = {
        module: [labels[id(alpha)] for alpha in labelled_alphas(module, name).values()]
        for name, module in supernet_modules(space)
    }
    for module, own in mixed.items():
        if isinstance(module, DifferentiableMixedRepeat) and len(own) == 1:
            ((local, spec),) = module.depth_choice.simplify().items()
            for value in cast(Any, spec).values:
                found[own[0]][str(value)] += module.blocks[: module.depth_choice.freeze({local: value})]
        elif not isinstance(module, DifferentiableMixedInput | LayerChoice | DifferentiableMixedCell) and own:
            raise _no_sum(own, f"a {type(module).__name__} has no candidates")
        inside = (m for label in own for modules in found[label].values() for c in modules for m in c.modules())
        if any(mixed.get(m) for m in inside):
            raise _no_sum(own, "there are choices inside its candidates")
    return found


def _no_sum(labels: Sequence[str], why: str) -> SpaceError:
    return SpaceError(
        f"the costs of {', '.join(labels)} do not add up choice by choice, because {why}: use `penalty` with a "
        "profiler of NNI's in the place of `cost`"
    )


@contextmanager
def calls_watched(modules: Sequence[nn.Module], counter: FlopCounterMode | None) -> Iterator[tuple[Any, Any]]:
    """Yield module -> its first `Call`, and module -> operations, of what runs in the block."""
    calls: dict[nn.Module, Call] = {}
    flops: dict[nn.Module, float] = dict.fromkeys(modules, 0.0)
    with ExitStack() as stack:
        for module in set(modules):

            def before(module: nn.Module, args: Any, kwargs: Any) -> None:
                calls.setdefault(module, Call(args, kwargs))
                flops[module] -= counter.get_total_flops() if counter is not None else 0

            def after(module: nn.Module, args: Any, result: Any) -> None:
                flops[module] += counter.get_total_flops() if counter is not None else 0

            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after).remove)
        yield calls, flops


def counted(space: nn.Module, measure: Measure, run: Callable[[], object]) -> CostTable:
    """Return operations, or parameters, of each choice.

    Args:
        space: the supernet.
        measure: "flops" or "params".
        run: runs the supernet on a batch; what that leaves is the caller's to put back.

    Raises:
        SpaceError: costs do not add up choice by choice.
    """
    parts = parts_of(space)
    inside = [m for by_choice in parts.values() for modules in by_choice.values() for m in modules]
    whole, own = _parameters(space, inside) if measure == "params" else _operations(inside, run)
    costs = {
        label: {name: sum(own[m] for m in modules) for name, modules in by_choice.items()}
        for label, by_choice in parts.items()
    }
    fixed = whole - sum(own[m] for m in set(inside))
    return table_of(space, costs, fixed=max(fixed, 0.0), measure=measure, unit={"flops": "operations"}.get(measure, ""))


def table_of(space: nn.Module, costs: Mapping[str, Mapping[str, float]], **entries: Any) -> CostTable:
    """Return a table of costs by label and choice of a supernet, with further entries."""
    plain = {label: {k: float(cost) for k, cost in by_choice.items()} for label, by_choice in costs.items()}
    return CostTable(costs=plain, space=type(space).__name__, parameters=number_of_parameters(space), **entries)


def number_of_parameters(space: nn.Module) -> int:
    """Return how many parameters a supernet has, alphas not counted."""
    alphas = {id(alpha) for alpha in architecture_parameters(space).values()}
    return sum(p.numel() for p in space.parameters() if id(p) not in alphas)


def _parameters(space: nn.Module, modules: Sequence[nn.Module]) -> tuple[float, Counts]:
    return number_of_parameters(space), {m: float(sum(p.numel() for p in m.parameters())) for m in modules}


def _operations(modules: Sequence[nn.Module], run: Callable[[], object]) -> tuple[float, Counts]:
    """Return the operations of one example in a pass, in all and in each module."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), calls_watched(modules, counter) as (calls, flops):
        run()
    batch = next((x.shape[0] for call in calls.values() for x in tree_leaves(call.args) if isinstance(x, Tensor)), 1)
    return counter.get_total_flops() / batch, {module: n / batch for module, n in flops.items()}

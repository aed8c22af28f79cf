"""How a mixed module computes its candidates: what can be computed together, and why the rest cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from nni.nas.hub.pytorch import nasbench201 as hub201
from nni.nas.hub.pytorch import nasnet
from torch import Tensor, nn

from balenas_plugin.bayes.second_derivatives.batch_norm import FastSecondDerivative
from balenas_plugin.fused import (
    Branch,
    Cell,
    Fan,
    Snapshot,
    Unwrap,
    Zero,
    cell_of,
    departing,
    depthwise,
    hooks_of,
    replaced_method,
    surroundings,
    why_unfit,
)
from balenas_plugin.mixed_ops.dropped import Dropped
from balenas_plugin.restoring import untouched
from balenas_plugin.search_spaces.darts import operations as darts


def _pooling(module: nn.Module) -> nn.Module | None:
    return cast(nn.Module, module.op) if module.preprocess is None else None


UNWRAP: Mapping[type[nn.Module], Unwrap] = {
    hub201.ReLUConvBN: lambda module: cast(nn.Module, module.op),
    hub201.SepConv: lambda module: cast(nn.Module, module.op),
    hub201.Pooling: _pooling,
    hub201.Zero: lambda module: Zero(),
    nasnet.Zero: lambda module: Zero(),
    darts.Zero: lambda module: Zero(),
    Dropped: lambda module: Zero(),
}
"""How to look into the wrappers of NNI's hub and of our spaces."""

Prepare = Callable[[list[Tensor]], Sequence[Tensor]]
"""Makes a module's sources of its inputs."""


class Plan:
    """How a module computes its candidates: one fan per source. Made at its first pass, when all children are in place.

    A plan is for the modules as they are: `is_current` notices what has been replaced or set since. It is neither
    copied nor pickled with its module, which plans anew.

    Args:
        owner: the mixed module.
        nnis: the class of NNI's that it stands for.
        branches: the candidates that leave each source; their targets are numbered as nodes, behind the sources.
        inner: modules between `owner` and the candidates whose own code is passed over.
        why: why NNI must compute them in any case, if so.
    """

    def __init__(
        self,
        owner: nn.Module,
        nnis: type[nn.Module],
        branches: Sequence[Sequence[Branch]],
        inner: Sequence[nn.Module] = (),
        why: str | None = None,
    ) -> None:
        self.fans = [Fan(of_source, UNWRAP) for of_source in branches]
        self.refusal = why or why_not_its_own(owner, nnis) or self._refusal()
        """Why NNI computes the candidates whatever comes in, None if they can be computed together."""
        self._owner = owner
        self._children = owner._modules
        self._tried: dict[object, tuple[str | None, dict[int, Tensor]]] = {}
        self._nodes: Mapping[int, Tensor] = {}
        whole: list[nn.Module] = list(inner)
        called: list[nn.Module] = []
        for fan in self.fans:
            for k, branch in enumerate(fan.branches):
                for module in branch.operation.modules():
                    plain = k not in fan.called or type(module).__module__.startswith("torch.nn.modules.")
                    (whole if plain else called).append(module)
        self._snapshot = Snapshot(whole, called, [type(owner), nnis])
        self._names = dict(self._children)
        self._reduction = vars(owner).get("_reduction")

    @cached_property
    def cell(self) -> Cell | None:
        """The fans as one function, None where they are of other kinds."""
        return cell_of(self.fans)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def is_current(self, owner: nn.Module) -> bool:
        """Return whether it is a plan for `owner` as that is now."""
        if owner._modules is not self._children or vars(owner).get("_reduction") is not self._reduction:
            return False
        return self._children == self._names and self._snapshot.holds()

    def refuses(self, inputs: Sequence[Tensor], prepare: Prepare) -> str | None:
        """Return why candidates may not be computed together on such inputs, None if they may.

        The first time that inputs of a shape and type are met, the candidates are called once more than NNI would, one
        by one, and all that this changed is put back: only that shows which shapes a module of the user returns, and
        whether it writes into its input.
        """
        if self.refusal is not None:
            return self.refusal
        kind = tuple((x.shape, x.dtype, x.device) for x in inputs)
        if kind not in self._tried:
            with untouched(self._owner), torch.inference_mode(False), torch.no_grad():
                try:
                    nodes = dict(enumerate(prepare([x.clone() for x in inputs])))
                    self._tried[kind] = departing(self.fans, nodes), {k: x.to("meta") for k, x in nodes.items()}
                except Exception as error:  # whatever candidates raise; NNI's pass, which follows, raises it again
                    self._tried[kind] = f"a candidate raised {type(error).__name__}", {}
        why, self._nodes = self._tried[kind]
        return why

    def zeros(self, node: int, device: torch.device) -> Tensor:
        """Return zeros like a node on the inputs that `refuses` was asked about last."""
        return torch.zeros_like(self._nodes[node], device=device)

    def __str__(self) -> str:
        if self.refusal is not None:
            return f"as NNI does: {self.refusal}"
        total = sum(len(fan.branches) for fan in self.fans)
        called = Counter(
            f"{fan.branches[k].name}: {opaque.why}" for fan in self.fans for k, opaque in fan.called.items()
        )
        changed = dict.fromkeys(str(kind) for layer in self.layers() if (kind := depthwise.used_for(layer)))
        backward = f"; backward passes of depthwise {', '.join(changed)} by forward ones" if changed else ""
        if not called:
            return f"fused{backward}"
        return f"fused{backward}, but {called.total()} of {total} candidates called as they are ({'; '.join(called)})"

    def layers(self) -> Iterator[nn.Module]:
        """Yield the plain layers that are computed together."""
        for fan in self.fans if self.refusal is None else ():
            yield from fan.layers()

    def _refusal(self) -> str | None:
        candidates = [branch.operation for fan in self.fans for branch in fan.branches]
        for module in (module for candidate in candidates for module in candidate.modules()):
            if any(hooks_of(module)):
                return f"a hook listens to {type(module).__name__}"
        uses = Counter(id(buffer) for candidate in candidates for buffer in candidate.buffers())
        if any(count > 1 for count in uses.values()):
            return "candidates share a layer with statistics"
        if not any(len(fan.called) < len(fan.branches) for fan in self.fans):
            return "nothing to gain"
        reached = {branch.target for fan in self.fans for k, branch in enumerate(fan.branches) if k not in fan.zeros}
        if any(branch.target not in reached for fan in self.fans for branch in fan.branches):
            return "nothing but zeros to choose from"
        return None


class Planned(nn.Module):
    """What the mixed modules of `fused` have in common: a plan for each mode, and what became of their passes.

    Both are made when first asked for: NNI's cells become of this kind when they are long initialised.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What NNI's classes keep, which have no types."""

    def plan(self) -> Plan:
        """Return how the candidates are computed in the present mode, as things are now."""
        plans: dict[bool, Plan | None] = vars(self).setdefault("_plans", {})
        plan = plans.get(self.training)
        if plan is None or not plan.is_current(self):
            plan = plans[self.training] = self._made_plan()
        return plan

    def plan_for(self, inputs: Sequence[Any], prepare: Prepare = list) -> Plan | None:
        """Return how to compute the candidates together on these inputs, None where NNI must compute them."""
        if torch.compiler.is_dynamo_compiling():  # it cannot look; CompiledForward has had such inputs before
            return self._plans.get(self.training) if list(self._ways) == [None] else None
        harmless = FastSecondDerivative, depthwise.Convolutions
        why = surroundings(harmless) or next(filter(None, map(why_unfit, inputs)), None)
        plan = None
        if why is None:
            plan = self.plan()
            why = plan.refuses(inputs, prepare)
        vars(self).setdefault("_ways", {})[why] = None
        return plan if why is None else None

    def forget_plan(self) -> None:
        """Be as one that has never run."""
        for name in ("_plans", "_ways"):
            vars(self).pop(name, None)

    def description(self) -> str:
        """Return in words how the candidates are computed."""
        plan, ways = self.plan(), vars(self).get("_ways", {})
        left = " and ".join(why for why in ways if why not in (None, plan.refusal))
        if not left or plan.refusal is not None:
            return str(plan)
        return f"{plan}; as NNI does where {left}" if None in ways else f"as NNI does: {left}"

    def _made_plan(self) -> Plan:
        """Return a plan for the module as it is now."""
        raise NotImplementedError(f"{type(self).__name__} must say how its candidates are planned")


def why_not_its_own(owner: nn.Module, nnis: type[nn.Module]) -> str | None:
    """Return why a mixed module does not add its candidates up as NNI's class does, None if it does."""
    if (method := replaced_method(nnis)) is not None:
        return f"{nnis.__name__}.{method} was replaced"
    own = getattr(type(owner), "_reduction", None) is getattr(nnis, "_reduction", None)
    return None if own and "_reduction" not in vars(owner) else f"{type(owner).__name__} has a reduction of its own"

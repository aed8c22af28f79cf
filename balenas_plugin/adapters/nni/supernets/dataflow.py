"""Which modules only feed inputs of an InputChoice that it may not take, and so are of no use.

It is known where one graph says all that a pass does; where it cannot be traced, or changes anything besides, every
module is taken to be of use.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import Any

import torch
from nni.nas.nn.pytorch.choice import ChosenInputs
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, fx, nn

from balenas_plugin.bayes.conditional import Includes, Use
from balenas_plugin.export.standalone.tracing import changes_its_input
from balenas_plugin.restoring import attributes_restored

Fed = dict[nn.Module, set[Use]]
"""Module -> alternative conditions under which its output is of any use."""


def fed_of(model: nn.Module, picks: Mapping[nn.Module, int]) -> Fed:
    """Return what is known of the modules that a supernet's `forward` calls; nothing where that cannot be known.

    Args:
        model: the supernet.
        picks: InputChoice -> position of its decision.
    """
    fed: Fed = {}
    for graph in _graphs(model) if picks else ():
        for node, uses in _uses(graph, model, picks, unread={()}).items():
            if node.op == "call_module":
                fed.setdefault(model.get_submodule(str(node.target)), set()).update(uses)
    return fed


class Unused(nn.Module):
    """Stands where a network calls a module and makes no use of its output."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first argument."""
        return next(iter((*args, *kwargs.values())))


@torch.no_grad()
def without_unused(network: nn.Module, example: Tensor) -> nn.Module:
    """Return a frozen network with `Unused` in the place of modules that feed inputs which were not chosen.

    The network itself comes back where it has none, or where that cannot be known.

    Args:
        network: as NNI freezes it.
        example: an input, for which the two must give the same output.
    """
    graphs = _graphs(network) if any(isinstance(module, ChosenInputs) for module in network.modules()) else []
    used, called = set(), set()
    for graph in graphs:
        live = {node for node, uses in _uses(graph, network, {}, unread=set()).items() if uses}
        for node in graph.nodes:
            if node.op in ("call_module", "get_attr"):
                path = str(node.target).split(".")
                owners = {network.get_submodule(".".join(path[:depth])) for depth in range(len(path))}
                owners |= {network.get_submodule(str(node.target))} if node.op == "call_module" else set()
                called |= owners
                used |= owners if node in live else set()
    dead = [path for path, module in network.named_modules() if module in called - used]
    if not dead:
        return network
    pruned = copy.deepcopy(network)
    for path in reversed(dead):  # what a module holds comes before the module
        owner, _, name = path.rpartition(".")
        if not isinstance(network.get_submodule(path), nn.ModuleList | nn.ModuleDict):
            setattr(pruned.get_submodule(owner), name, Unused())
    return pruned if _same_output(copy.deepcopy(network), copy.deepcopy(pruned), example) else network


def _same_output(network: nn.Module, other: nn.Module, example: Tensor) -> bool:
    try:
        return torch.equal(network.eval()(example), other.eval()(example))
    except Exception:  # the user's code meets an input in the place of an output
        return False


class _Proxy(fx.Proxy):
    """Records ``a += b`` as what it is: torch.fx makes ``a = a + b`` of it, which leaves other names of `a` alone."""


def _recorded(function: Any) -> Any:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    setattr(_Proxy, f"__i{_name}__", _recorded(getattr(operator, f"i{_name}")))


class _Tracer(fx.Tracer):
    """Trace through everything but choices and the layers of PyTorch."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, BaseSuperNetModule) or super().is_leaf_module(m, module_qualified_name)


def _graphs(model: nn.Module) -> list[fx.Graph]:
    """Return the graphs of a pass in training and in evaluation, none where one is not known."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return []
    graphs = [_traced(model, training) for training in (True, False)]
    return [graph for graph in graphs if graph is not None] if None not in graphs else []


def _traced(model: nn.Module, training: bool) -> fx.Graph | None:
    """Return the graph of a pass, None if there is no single one, or a pass changes anything besides."""
    with attributes_restored(model):
        model.train(training)
        before = {module: _state(module) for module in model.modules()}
        try:
            graph = _Tracer().trace(model)
        except Exception:  # whatever the user's own code raises when it meets symbolic values
            graph = None
        if any(_state(module) != state for module, state in before.items()):
            graph = None
    return graph


def _state(module: nn.Module) -> dict[str, tuple[int, int | None]]:
    """Return what shows whether an attribute was set, or a container of one filled."""
    sizes = (list, dict, set, tuple)
    return {name: (id(value), len(value) if isinstance(value, sizes) else None) for name, value in vars(module).items()}


def _uses(
    graph: fx.Graph, model: nn.Module, picks: Mapping[nn.Module, int], *, unread: set[Use]
) -> dict[fx.Node, set[Use]]:
    """Return for each node the alternative conditions under which the result depends on it.

    Args:
        graph: of a pass.
        model: whose pass it is.
        picks: InputChoice -> position of its decision.
        unread: what is taken of a module whose output nothing reads.
    """
    uses: dict[fx.Node, set[Use]] = {}
    for node in reversed(graph.nodes):
        found: set[Use] = set() if node.users else {()} if node.op == "output" else set(unread)
        if changes_its_input(node, model) and not _writes_into_its_own(node, model):
            found = {()}
        for user in node.users:
            inputs: Any = user.args[0] if user.args else None
            pick = picks.get(model.get_submodule(str(user.target))) if user.op == "call_module" else None
            if pick is None or not isinstance(inputs, list | tuple):
                found |= uses[user]
                continue
            for j, entry in enumerate(inputs):
                if entry is node:
                    condition = Includes((pick,), j, named=True)
                    found |= {use if condition in use else (*use, condition) for use in uses[user]}
        uses[node] = _least(found)
    return uses


def _least(uses: set[Use]) -> set[Use]:
    """Return the uses without those that hold only where another does, which double with every cell of a network."""
    kept: list[Use] = []
    for use in sorted(uses, key=lambda use: (len(use), repr(use))):
        if not any(set(other) <= set(use) for other in kept):
            kept.append(use)
    return set(kept)


def _writes_into_its_own(node: fx.Node, model: nn.Module) -> bool:
    """Return whether the tensor that a node writes into comes from a layer with weights, and nothing else reads it."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
        return False
    return next(model.get_submodule(str(source.target)).parameters(), None) is not None

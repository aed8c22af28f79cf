"""Which modules of a supernet only feed certain inputs of an InputChoice: they are of no use where it takes others."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import fx, nn

from balenas_plugin.bayes.conditional import Feeds, Use

Fed = dict[nn.Module, set[Use]]
"""Module -> alternative conditions under which its output is of any use."""


def fed_of(model: nn.Module, picks: Mapping[nn.Module, int]) -> Fed:
    """Return what is known of the modules that `forward` calls; nothing where it cannot be known for sure.

    Args:
        model: the supernet.
        picks: InputChoice -> position of its decision.
    """
    fed: Fed = {}
    if not picks or any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return fed
    for training in (True, False):
        graph = _traced(model, training)
        if graph is None:
            return {}
        for node, uses in _uses(graph, model, picks).items():
            if node.op == "call_module":
                fed.setdefault(model.get_submodule(str(node.target)), set()).update(uses)
    return fed


class _Tracer(fx.Tracer):
    """Trace through everything but choices and the layers of PyTorch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, BaseSuperNetModule) or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module, training: bool) -> fx.Graph | None:
    """Return the graph of a pass, None if there is no single one, or a pass changes anything besides."""
    with _mode(model, training):
        before = {module: _state(module) for module in model.modules()}
        attributes = {module: dict(vars(module)) for module in before}
        try:
            graph = _Tracer().trace(model)
        except Exception:  # whatever the user's own code raises when it meets symbolic values
            graph = None
        if any(_state(module) != state for module, state in before.items()):
            graph = None
        for module, kept in attributes.items():
            vars(module).clear()
            vars(module).update(kept)
    if graph is None or any(_changes_its_input(node) for node in graph.nodes):
        return None
    return graph


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    try:
        model.train(training)
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def _state(module: nn.Module) -> dict[str, tuple[int, int | None]]:
    """Return what tells whether an attribute was set, or a container of one filled."""
    sizes = (list, dict, set, tuple)
    return {name: (id(value), len(value) if isinstance(value, sizes) else None) for name, value in vars(module).items()}


def _changes_its_input(node: fx.Node) -> bool:
    if node.op == "call_method":
        return str(node.target).endswith("_") or node.target == "__setitem__"
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    return (
        node.target is operator.setitem
        or name.endswith("_")
        or (getattr(node.target, "__module__", "") == "_operator" and name.startswith("i") and name not in _PURE)
        or bool(node.kwargs.get("inplace"))
        or "out" in node.kwargs
    )


_PURE = ("index", "indexOf", "inv", "invert", "is_", "is_not", "itemgetter")


def _uses(graph: fx.Graph, model: nn.Module, picks: Mapping[nn.Module, int]) -> dict[fx.Node, set[Use]]:
    """Return for each node the alternative conditions under which the result depends on it."""
    uses: dict[fx.Node, set[Use]] = {}
    for node in reversed(graph.nodes):
        found: set[Use] = set() if node.users else {()}
        for user in node.users:
            inputs: Any = user.args[0] if user.args else None
            pick = picks.get(model.get_submodule(str(user.target))) if user.op == "call_module" else None
            if pick is None or not isinstance(inputs, list | tuple):
                found |= uses[user]
                continue
            for j, entry in enumerate(inputs):
                if entry is node:
                    condition = Feeds((pick,), j)
                    found |= {use if condition in use else (*use, condition) for use in uses[user]}
        uses[node] = {()} if () in found else found
    return uses

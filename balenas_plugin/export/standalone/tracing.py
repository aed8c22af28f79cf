"""Find out how a network computes: which of its modules can be called as a whole, and what each does.

A module is written as a class with a `forward` of its own when it maps tensors to tensors and `torch.fx` can trace it
by itself. Any other module is traced as a part of the module that calls it, and only holds its layers.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from balenas_plugin.errors import first_line
from balenas_plugin.export.standalone.calls import Argument, Calls, record_calls
from balenas_plugin.export.standalone.expressions import NotExportableError
from balenas_plugin.export.standalone.layers import builtin_class

_TRACED = "traced"
_FILLS = ("setitem", "__setitem__", "append", "extend", "insert", "pop", "update", "setdefault", "clear", "reverse")


@dataclass(frozen=True)
class Forward:
    """What one module computes.

    Args:
        calls: how it is called.
        graphs: training mode -> the graph; targets are relative to the module.
        constants: tensors that its code makes out of nothing, under names that are free in the module.
    """

    calls: Calls
    graphs: dict[bool, fx.Graph]
    constants: dict[str, Tensor]


@dataclass(frozen=True)
class Structure:
    """A network taken apart.

    Args:
        forwards: module -> what it computes, for each that is called as a whole and is not a layer of PyTorch.
        used: paths of the modules that are called or hold one that is; others have no effect on the output.
        tensors: paths of the tensors that a `forward` reads itself.
    """

    forwards: dict[nn.Module, Forward] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    tensors: set[str] = field(default_factory=set)


def take_apart(model: nn.Module, example: Tensor) -> Structure:
    """Return the structure of `model`; its mode and running statistics may change.

    Args:
        model: any network of one input.
        example: an input, shape (N, ...); the modules are distinguished by how a pass over it calls them.

    Raises:
        NotExportableError: the network cannot be traced.
    """
    calls = record_calls(model, example)
    traced: dict[nn.Module, Forward] = {}
    leaves: dict[nn.Module, bool] = {}  # module -> whether it returns one tensor
    for module in _innermost_first(model, {}):
        if builtin_class(module) is not None:
            leaves[module] = True
        elif module not in calls:
            continue
        elif is_container(module):
            if all(child in leaves for child in module.children()):
                leaves[module] = calls[module].one_tensor
        else:
            try:
                traced[module] = _trace_either(module, calls[module], leaves)
            except Exception as error:  # whatever the user's own code raises when it meets symbolic values
                if module is model:
                    raise NotExportableError(f"its forward cannot be traced: {first_line(error)}") from error
            else:
                leaves[module] = calls[module].one_tensor
    if model not in leaves:
        raise NotExportableError("its forward must map one tensor, an argument with a name, to tensors")
    structure = Structure()
    _mark_used(model, "", traced, structure)
    return structure


def is_container(module: nn.Module) -> bool:
    """Return whether `module` is a Sequential, ModuleList or ModuleDict without a `forward` of its own."""
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return isinstance(module, nn.ModuleList | nn.ModuleDict) and type(module).forward is nn.Module.forward


def is_numbered(module: nn.Module) -> bool:
    """Return whether `module` is a Sequential, or derives from it, and nothing has a name in it but its layers."""
    names = [*module._parameters, *module._buffers, *module._modules]
    return isinstance(module, nn.Sequential) and names == [str(number) for number in range(len(module))]


def join(*parts: str) -> str:
    """Return the dotted path of `parts`, empty ones left out."""
    return ".".join(part for part in parts if part)


def _innermost_first(module: nn.Module, seen: dict[nn.Module, None]) -> Iterable[nn.Module]:
    """Return every module once, after all that it holds."""
    for child in module.children():
        if child not in seen:
            _innermost_first(child, seen)
    seen[module] = None
    return seen


class _Tracer(fx.Tracer):
    """Trace through everything but the leaves, and read buffers as symbols too."""

    proxy_buffer_attributes = True

    def __init__(self, leaves: Iterable[nn.Module]) -> None:
        super().__init__()
        self._leaves = frozenset(leaves)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether calls of `m` stay calls."""
        return m in self._leaves


def _trace_either(module: nn.Module, calls: Calls, leaves: dict[nn.Module, bool]) -> Forward:
    """Trace `module` with its leaves; those that return several tensors are traced through if it must be.

    Code that takes the list that a leaf returns apart meets one symbol, which has no length.
    """
    try:
        return _trace(module, calls, leaves)
    except Exception:  # as in `take_apart`; the second attempt raises again
        return _trace(module, calls, [leaf for leaf, one_tensor in leaves.items() if one_tensor])


def _trace(module: nn.Module, calls: Calls, leaves: Iterable[nn.Module]) -> Forward:
    """Trace `module` in both modes as it is called, with every argument that it is not given at its default."""
    graphs: dict[bool, fx.Graph] = {}
    constants: dict[str, Tensor] = {}
    for training in (False, True):
        module.train(training)
        holder = _holder(module, calls.arguments)
        graph = _Tracer(leaves).trace(holder)
        _remove_unused(graph, holder)
        for node in graph.nodes:
            if node.op not in ("call_module", "get_attr"):
                continue
            if node.target.startswith(f"{_TRACED}."):
                node.target = node.target.removeprefix(f"{_TRACED}.")
            else:
                node.target = _constant_name(module, getattr(holder, node.target), constants)
        graphs[training] = graph
    return Forward(calls, graphs, constants)


def _remove_unused(graph: fx.Graph, root: nn.Module) -> None:
    """Remove what makes no difference to the output, such as the inputs that an InputChoice has not taken."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output") and not changes_its_input(node, root):
            graph.erase_node(node)


def changes_its_input(node: fx.Node, root: nn.Module) -> bool:
    """Return whether a node may write into what it is given: a tensor, or a list or dict of tensors."""
    if node.op == "call_module":
        return any(getattr(module, "inplace", False) for module in root.get_submodule(str(node.target)).modules())
    if node.op == "call_method" and not hasattr(Tensor, str(node.target)):
        return True  # a list's append, say
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    plain = name.removeprefix("i")  # of an augmented assignment: add for iadd, and_ for iand
    augmented = getattr(operator, f"i{plain}", None) is node.target and any(
        hasattr(operator, other) for other in (plain, f"{plain}_")
    )
    writes = name in _FILLS or (name.endswith("_") and not name.endswith("__")) or augmented
    return writes or bool(node.kwargs.get("inplace")) or "out" in node.kwargs


def _holder(module: nn.Module, arguments: tuple[Argument, ...]) -> nn.Module:
    """Return a module with `module` in it whose forward takes the tensors in `arguments` one by one, and no others.

    Tracing `module` itself would make symbols of its optional arguments too, which are never None, and of its lists.
    """
    tensors = ", ".join(name for argument in arguments for name in argument.tensors)
    values = ", ".join(argument.value for argument in arguments)
    forward = eval(f"lambda self, {tensors}: self.{_TRACED}({values})")
    holder: nn.Module = type("Holder", (nn.Module,), {"forward": forward})()
    setattr(holder, _TRACED, module)
    return holder


def _constant_name(module: nn.Module, value: Tensor, constants: dict[str, Tensor]) -> str:
    for name, known in constants.items():
        if known.dtype == value.dtype and known.shape == value.shape and torch.equal(known, value):
            return name
    number = len(constants)
    while hasattr(module, f"constant_{number}"):
        number += 1
    constants[f"constant_{number}"] = value.detach()
    return f"constant_{number}"


def _mark_used(model: nn.Module, path: str, traced: dict[nn.Module, Forward], structure: Structure) -> None:
    structure.used.add(path)
    module = model.get_submodule(path)
    if is_container(module):
        for name in module._modules:
            _mark_used(model, join(path, name), traced, structure)
    if module not in traced:
        return
    structure.forwards[module] = traced[module]
    for graph in traced[module].graphs.values():
        for node in graph.nodes:
            if node.op not in ("call_module", "get_attr"):
                continue
            *owners, last = str(node.target).split(".")
            for depth in range(1, len(owners) + 1):
                structure.used.add(join(path, *owners[:depth]))
            if node.op == "call_module":
                _mark_used(model, join(path, *owners, last), traced, structure)
            else:
                structure.tensors.add(join(path, *owners, last))

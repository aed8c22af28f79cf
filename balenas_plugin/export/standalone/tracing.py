"""Find out how a network computes: which of its modules can be called as a whole, and what each does.

A module is written as a class with a `forward` of its own when it maps tensors to one tensor and `torch.fx` can trace
it by itself. Any other module (one that is handed a list, say) is traced as a part of the module that calls it, and
only holds its layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from balenas_plugin.export.standalone.expressions import NotExportableError
from balenas_plugin.export.standalone.layers import builtin_class

RESERVED = ("self", "torch", "nn", "F", "Tensor", "operator", "math")
"""Names that the written module gives a meaning."""

_TRACED = "traced"


@dataclass(frozen=True)
class Forward:
    """What one module computes.

    Args:
        inputs: names of the arguments that it is called with.
        graphs: training mode -> the graph; targets are relative to the module.
        constants: tensors that its code makes out of nothing, under names that are free in the module.
    """

    inputs: tuple[str, ...]
    graphs: dict[bool, fx.Graph]
    constants: dict[str, Tensor]


@dataclass
class Structure:
    """A network taken apart.

    Args:
        forwards: path -> what the module there computes, for each that is written with a `forward` of its own.
        used: paths of the modules that are called or hold one that is; others have no effect on the output.
        tensors: paths of the tensors that a `forward` reads itself.
    """

    forwards: dict[str, Forward] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    tensors: set[str] = field(default_factory=set)


def take_apart(model: nn.Module, example: Tensor) -> Structure:
    """Return the structure of `model`; its mode and running statistics may change.

    Args:
        model: any network of one input.
        example: an input, shape (N, ...); the modules are told apart by how a pass over it calls them.

    Raises:
        NotExportableError: the network cannot be traced.
    """
    structure = Structure()
    calls = _record_calls(model, example)
    leaves: set[int] = set()
    for path, module in reversed(list(model.named_modules())):
        signatures = calls.get(module, set())
        tensors_only = len(signatures) == 1 and None not in signatures
        if builtin_class(module) is not None:
            leaves.add(id(module))
        elif is_container(module):
            if tensors_only and all(id(child) in leaves for child in module.children()):
                leaves.add(id(module))
        elif tensors_only or path == "":
            try:
                structure.forwards[path] = _trace(module, next(iter(signatures)) or (), leaves)
            except Exception as error:  # whatever the user's own code raises when it meets symbolic values
                if path == "":
                    raise NotExportableError(f"its forward cannot be traced: {_first_line(error)}") from error
            else:
                leaves.add(id(module))
    if id(model) not in leaves:
        raise NotExportableError("its layers are not called with tensors, one after the other")
    _mark_used(model, "", structure)
    return structure


def is_container(module: nn.Module) -> bool:
    """Return whether `module` is a Sequential, ModuleList or ModuleDict without a `forward` of its own."""
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return isinstance(module, nn.ModuleList | nn.ModuleDict) and type(module).forward is nn.Module.forward


def training_batch(example: Tensor) -> Tensor:
    """Return `example` with at least two entries, which batch normalisation needs in training."""
    return example if len(example) > 1 else torch.cat([example, example])


def _record_calls(model: nn.Module, example: Tensor) -> dict[nn.Module, set[tuple[str, ...] | None]]:
    """Return module -> names of the arguments of its calls, in both modes; None where something is not a tensor."""
    calls: dict[nn.Module, set[tuple[str, ...] | None]] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        tensors = all(isinstance(value, Tensor) for value in bound.values())
        one_tensor = isinstance(output, Tensor) or module is model
        free = not any(name in RESERVED for name in bound)
        calls.setdefault(module, set()).add(tuple(bound) if tensors and one_tensor and free else None)

    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(example)
            model.train()(training_batch(example))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


class _Tracer(fx.Tracer):
    """Trace through everything but the leaves, and read buffers as symbols too."""

    proxy_buffer_attributes = True

    def __init__(self, leaves: Iterable[int]) -> None:
        super().__init__()
        self._leaves = frozenset(leaves)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether calls of `m` stay calls."""
        return id(m) in self._leaves


def _trace(module: nn.Module, inputs: tuple[str, ...], leaves: set[int]) -> Forward:
    """Trace `module` in both modes as it is called, with `inputs` and every other argument at its default."""
    root = module
    graphs: dict[bool, fx.Graph] = {}
    constants: dict[str, Tensor] = {}
    for training in (False, True):
        root.train(training)
        holder = _holder(root, inputs)
        graph = _Tracer(leaves).trace(holder)
        for node in graph.nodes:
            if node.op not in ("call_module", "get_attr"):
                continue
            if node.target.startswith(f"{_TRACED}."):
                node.target = node.target.removeprefix(f"{_TRACED}.")
            else:
                node.target = _constant_name(module, getattr(holder, node.target), constants)
        graphs[training] = graph
    return Forward(inputs, graphs, constants)


def _holder(module: nn.Module, inputs: tuple[str, ...]) -> nn.Module:
    """Return a module with `module` in it whose forward has the arguments `inputs` and no others.

    Tracing `module` itself would make symbols of its optional arguments too, which are never None.
    """
    arguments = ", ".join(f"{name}={name}" for name in inputs)
    forward = eval(f"lambda self, {', '.join(inputs)}: self.{_TRACED}({arguments})")
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


def _mark_used(model: nn.Module, path: str, structure: Structure) -> None:
    structure.used.add(path)
    module = model.get_submodule(path)
    if path not in structure.forwards:
        if is_container(module):
            for name in module._modules:
                _mark_used(model, join(path, name), structure)
        return
    for graph in structure.forwards[path].graphs.values():
        for node in graph.nodes:
            if node.op not in ("call_module", "get_attr"):
                continue
            *owners, last = str(node.target).split(".")
            for depth in range(1, len(owners) + 1):
                structure.used.add(join(path, *owners[:depth]))
            if node.op == "call_module":
                _mark_used(model, join(path, *owners, last), structure)
            else:
                structure.tensors.add(join(path, *owners, last))


def join(*parts: str) -> str:
    """Return the dotted path of `parts`, empty ones left out."""
    return ".".join(part for part in parts if part)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

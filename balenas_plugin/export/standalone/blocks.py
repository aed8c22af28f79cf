"""Turn a network that was taken apart into the expression that constructs it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from balenas_plugin.export.standalone.expressions import (
    Attribute,
    Block,
    Call,
    Expression,
    Item,
    Literal,
    NotExportableError,
    to_source,
)
from balenas_plugin.export.standalone.forward import forward_lines
from balenas_plugin.export.standalone.layers import builtin_class, layer_expression
from balenas_plugin.export.standalone.tracing import Structure, is_container, is_numbered, join

_WRITTEN_OUT = 32
"""Largest number of elements of a tensor that is written into the source."""

_INFERRED = (torch.float32, torch.int64, torch.bool)
"""Types that a constant has without being declared."""


class BlockBuilder:
    """Builds the expression that constructs `model`, and notes which tensors it cannot write out.

    Args:
        model: the network.
        structure: what `take_apart` has found in it.

    Attributes:
        tensors: path -> every tensor that the network will hold.
        constants: paths of those that no attribute of `model` holds.
        tables: paths of those that are not trained and too large for the source; they must come from a file.
        frozen: paths of the parameters of layers that are not trained.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self._model = model
        self._structure = structure
        self.tensors: dict[str, Tensor] = {}
        self.constants: set[str] = set()
        self.tables: list[str] = []
        self.frozen: list[str] = []

    def expression(self, path: str = "") -> Expression:
        """Return the expression that constructs the module at `path`.

        Raises:
            NotExportableError: it holds something that has no form in source.
        """
        module = self._model.get_submodule(path)
        layer = builtin_class(module)
        if layer is not None:
            for name in module.state_dict():
                self.tensors[join(path, name)] = find_tensor(module, name)
            self.frozen += [join(path, name) for name, value in module.named_parameters() if not value.requires_grad]
            try:
                return layer_expression(module, layer)
            except NotExportableError as error:
                raise NotExportableError(f"{path or 'the network'}: {error}") from error
        if is_container(module):
            return self._container(path, module)
        return self._block(path, module)

    def _container(self, path: str, module: nn.Module) -> Call:
        children: dict[str, Expression] = {
            name: self.expression(join(path, name)) if join(path, name) in self._structure.used else _nothing()
            for name in module._modules
        }
        if isinstance(module, nn.ModuleDict):
            entries = tuple(Item(f"{to_source(name)}: ", child) for name, child in children.items())
            return Call("nn.ModuleDict({", entries, "})")
        if isinstance(module, nn.ModuleList):
            return Call("nn.ModuleList([", tuple(Item("", child) for child in children.values()), "])")
        if is_numbered(module):
            return Call("nn.Sequential(", tuple(Item("", child) for child in children.values()))
        entries = tuple(Item(f"{to_source(name)}: ", child) for name, child in children.items())
        return Call("nn.Sequential(OrderedDict({", entries, "}))")

    def _block(self, path: str, module: nn.Module) -> Block:
        forward = self._structure.forwards.get(module)
        attributes = self._read_tensors(path, module)
        for name, child in module._modules.items():
            if child is not None and join(path, name) in self._structure.used:
                attributes.append(Attribute("module", name, self.expression(join(path, name))))
        lines: tuple[str, ...] = ()
        if forward is not None:
            try:
                lines = forward_lines(module, forward)
            except NotExportableError as error:
                raise NotExportableError(f"{path or type(module).__name__}: {error}") from error
        base = "nn.Sequential" if is_numbered(module) and len(attributes) == len(module._modules) else "nn.Module"
        return Block(type(module).__name__, base, tuple(attributes), lines)

    def _read_tensors(self, path: str, module: nn.Module) -> list[Attribute]:
        """Return the tensors that `module` itself holds and that a forward reads, parameters first."""
        forward = self._structure.forwards.get(module)
        constants = forward.constants if forward else {}
        read = {name for owner, _, name in map(_split, self._structure.tensors) if owner == path}
        names = [name for name in module._parameters if name in read]
        attributes = []
        for name in [*names, *sorted(read.difference(names))]:
            if name in constants:
                self.constants.add(join(path, name))
            value = constants[name] if name in constants else find_tensor(self._model, join(path, name))
            self.tensors[join(path, name)] = value
            if name in module._parameters:
                attributes.append(Attribute("parameter", name, _parameter(value)))
                continue
            if value.numel() > _WRITTEN_OUT and not _uniform(value):
                self.tables.append(join(path, name))
            attributes.append(Attribute("buffer", name, _constant(value)))
        return attributes


def _split(path: str) -> tuple[str, str, str]:
    return path.rpartition(".")


def find_tensor(module: nn.Module, path: str) -> Tensor:
    """Return the tensor at the dotted `path` in `module`.

    Raises:
        NotExportableError: a symbol is there, because the forward that was traced has assigned to it.
    """
    owner, _, name = path.rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    if not isinstance(value, Tensor):
        raise NotExportableError(f"its forward assigns a new tensor to {path}; change that one in place (`copy_`)")
    return value


def _nothing() -> Call:
    """Return what keeps the place of a module that is never called."""
    return Call("nn.Identity(", ())


def _parameter(value: Tensor) -> Call:
    """Return a parameter of the shape of `value`.

    What initialised it is not known: it is constant if `value` is, else drawn with the mean and spread of `value`.
    """
    if _uniform(value):
        drawn = _full(value)
    else:
        spread, mean = (float(f"{number:.2g}") for number in torch.std_mean(value.detach().float(), correction=0))
        drawn = Call("torch.normal(", (Item("", Literal("mean", mean)), Item("", Literal("std", spread)), _size(value)))
    trained = Literal("requires_grad", value.requires_grad, default=value.requires_grad)
    return Call("nn.Parameter(", (Item("", drawn), Item("requires_grad=", trained)))


def _constant(value: Tensor) -> Call:
    """Return a tensor equal to `value`, or one of zeros in its shape where it is too large to be written out."""
    if _uniform(value):
        return _full(value)
    if value.numel() > _WRITTEN_OUT:
        return Call("torch.zeros(", (Item("", Literal("shape", tuple(value.shape))), _dtype(value)))
    return Call("torch.tensor(", (Item("", Literal("values", _shortest(value))), _dtype(value)))


def _full(value: Tensor) -> Call:
    entry = _shortest(value.flatten()[:1])[0] if value.numel() else 0
    shape = Item("", Literal("shape", tuple(value.shape)))
    return Call("torch.full(", (shape, Item("", Literal("value", entry)), _dtype(value)))


def _size(value: Tensor) -> Item:
    return Item("size=", Literal("shape", tuple(value.shape)))


def _dtype(value: Tensor) -> Item:
    return Item("dtype=", Literal("dtype", value.dtype, default=value.dtype in _INFERRED))


def _uniform(value: Tensor) -> bool:
    flat = value.detach().flatten()
    return bool((flat == flat[0]).all()) if len(flat) else True


def _shortest(value: Tensor) -> list[object]:
    """Return nested lists of numbers, each the shortest decimal that gives back the float32."""
    if value.dim() > 1:
        return [_shortest(row) for row in value]
    if value.dtype == torch.float32:
        return [float(str(number)) for number in value.detach().numpy()]
    entries: list[object] = value.tolist()
    return entries

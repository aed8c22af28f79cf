"""A candidate operation read as a chain of plain layers: ReLU, convolution, batch-norm, pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

PLAIN_LAYERS = (nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.MaxPool2d)


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers applied one after the other; none of them is the identity.

    Args:
        layers: the modules themselves: their parameters and buffers are read anew in every pass.
    """

    layers: tuple[nn.Module, ...]

    @cached_property
    def signature(self) -> tuple[object, ...]:
        """What must be equal for two chains to be computed side by side."""
        return tuple(_signature(layer) for layer in self.layers)

    @cached_property
    def has_parameters(self) -> bool:
        """Whether two chains of one signature may still compute different things."""
        return any(isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)) for layer in self.layers)


@dataclass(frozen=True)
class Zero:
    """An operation whose result is zero whatever its input."""


@dataclass(frozen=True)
class Opaque:
    """An operation that must be called, for a reason in plain words."""

    why: str


Unwrap = Callable[[nn.Module], nn.Module | Zero | None]
"""Returns the module that a module only passes its input to, or None if it does something of its own."""


def read_chain(operation: nn.Module, unwrap: Mapping[type[nn.Module], Unwrap] | None = None) -> Chain | Zero | Opaque:
    """Return `operation` as a chain, or why anything in it is not known to be a plain layer.

    A layer is plain if it computes what torch's class does (see `departure`), and if running its arithmetic elsewhere
    loses nothing: it is not in place, pads with zeros, and its weights are parameters of its own.

    Args:
        operation: a candidate of a mixed operation.
        unwrap: by exact type, how to look into the wrappers of a framework.
    """
    wrapper = (unwrap or {}).get(type(operation))
    known = type(operation) if wrapper is not None else _known_class(operation)
    why = f"{_name(operation)} is not a plain layer" if known is None else departure(operation, known)
    if why is not None:
        return Opaque(why)
    if wrapper is not None:
        inside = wrapper(operation)
        if inside is None:
            return Opaque(f"this {_name(operation)} does more than its inner operation")
        return inside if isinstance(inside, Zero) else read_chain(inside, unwrap)
    if known is nn.Identity:
        return Chain(())
    if known is nn.Sequential:
        return _joined([read_chain(part, unwrap) for part in operation.children()])
    why = _peculiarity(operation)
    return Chain((operation,)) if why is None else Opaque(why)


def departure(module: nn.Module, known: type[nn.Module]) -> str | None:
    """Return why calling `module` may do something else than the code of its class `known`, None if it cannot.

    That is a hook, a method replaced on the object or on the class, or a subclass that overrides anything that a
    forward pass could use.
    """
    if any(hooks_of(module)):
        return f"a hook listens to {_name(module)}"
    if (method := replaced_method(known)) is not None:
        return f"{known.__name__}.{method} was replaced"
    given = type(module)
    if given is not known:
        for attribute in dir(known):
            unused = (attribute.startswith("__") and attribute not in _CALLED) or attribute in _NOT_IN_A_PASS
            if not unused and getattr(given, attribute) is not getattr(known, attribute):
                return f"{_name(module)} overrides {known.__name__}.{attribute}"
    for attribute in (*vars(module), *module._parameters, *module._buffers, *module._modules):
        if hasattr(given, attribute):
            return f"{attribute} of this {_name(module)} was replaced"
    return None


def replaced_method(known: type[nn.Module]) -> str | None:
    """Return the name of a method of a forward pass that was not written where the class was, None without one."""
    for method in METHODS:
        owner = next((base for base in known.__mro__ if method in vars(base)), None)
        if owner is not None:
            code = vars(owner)[method]
            written = getattr(code, "__module__", None), getattr(code, "__qualname__", None)
            if written != (owner.__module__, f"{owner.__qualname__}.{method}") or hasattr(code, "__wrapped__"):
                return method
    return None


METHODS = ("forward", "_conv_forward", "_check_input_dim", "_reduction")
"""What a forward pass of a layer or of a choice among layers calls."""

_CALLED = ("__call__", "__getattr__", "__getattribute__")
_NOT_IN_A_PASS = ("extra_repr", "reset_parameters", "train")


def hooks_of(module: nn.Module) -> tuple[Mapping[int, object], ...]:
    """Return the tables in which a module keeps what listens to it; they are the same objects as long as it lives."""
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


def _name(module: nn.Module) -> str:
    return type(module).__name__


def _known_class(operation: nn.Module) -> type[nn.Module] | None:
    return next((kind for kind in (nn.Identity, nn.Sequential, *PLAIN_LAYERS) if isinstance(operation, kind)), None)


def _joined(parts: list[Chain | Zero | Opaque]) -> Chain | Opaque:
    layers: list[nn.Module] = []
    for part in parts:
        if isinstance(part, Zero):
            return Opaque("a zero is one of several layers")  # that is batch-normed, say; not worth knowing
        if isinstance(part, Opaque):
            return part
        layers.extend(part.layers)
    return Chain(tuple(layers))


def _peculiarity(layer: nn.Module) -> str | None:
    """Return what about the options or tensors of a layer is not understood."""
    if isinstance(layer, nn.ReLU):
        return "ReLU works in place" if layer.inplace else None
    if isinstance(layer, nn.MaxPool2d):
        return "MaxPool2d returns indices" if layer.return_indices else None
    if not isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
        return None
    own = layer._parameters.keys() == {"weight", "bias"}
    tensors = [*layer._parameters.values(), *layer._buffers.values()]
    if not own or any(type(t) not in (Tensor, nn.Parameter) for t in tensors if t is not None):
        return f"{_name(layer)} has a weight that is no parameter of its own"
    if isinstance(layer, nn.Conv2d):
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return None if plain else f"Conv2d pads in the way {layer.padding_mode!r}, {layer.padding!r}"
    if layer.momentum is None:
        return "BatchNorm2d has momentum=None"
    if any((t is None) is layer.affine for t in layer._parameters.values()):
        return "BatchNorm2d has weights that do not fit affine"
    if any((t is None) is layer.track_running_stats for t in layer._buffers.values()):
        return "BatchNorm2d has statistics that do not fit track_running_stats"
    return None


def _signature(layer: nn.Module) -> tuple[object, ...]:
    if isinstance(layer, nn.Conv2d):
        sizes = (layer.weight.shape, layer.stride, layer.padding, layer.dilation, layer.groups)
        return ("conv", *sizes, layer.bias is None)
    if isinstance(layer, nn.BatchNorm2d):
        return ("norm", layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    options = {key: value for key, value in vars(layer).items() if not key.startswith("_") and key != "training"}
    return (type(layer).__name__, *sorted(options.items()))  # extra_repr leaves out some (count_include_pad)

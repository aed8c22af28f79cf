"""Recover what a layer of ``torch.nn`` was constructed with."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from balenas_plugin.export.standalone.expressions import Call, Item, Literal, NotExportableError, to_source

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_PLACES = ("device", "dtype")
_INFERRED = {"bias": "in_proj_bias", "add_bias_kv": "bias_k"}
"""Arguments of MultiheadAttention that it keeps only as a tensor, under another name."""


def builtin_class(module: nn.Module) -> type[nn.Module] | None:
    """Return the layer class of ``torch.nn`` that `module` behaves as, or None.

    A subclass that adds only bookkeeping, as NNI's ``Mutable...`` layers do, behaves as its base; one that overrides
    any method of the layer does not.
    """
    if "forward" in vars(module):
        return None
    for base in type(module).__mro__:
        if getattr(nn, base.__name__, None) is base and base not in _CONTAINERS:
            return base if _same_methods(type(module), base) else None
    return None


def layer_expression(module: nn.Module, layer: type[nn.Module]) -> Call:
    """Return the call that constructs a layer like `module`, with every argument of the constructor.

    Raises:
        NotExportableError: the layer built so differs from `module`.
    """
    signature = _signature(layer)
    given = {name: _value(module, parameter) for name, parameter in signature.items()}
    if not _constructs(layer, given, module):
        raise NotExportableError(
            f"the arguments that its {type(module).__name__} was constructed with cannot be recovered from it"
        )
    for name, parameter in signature.items():
        given = _shorter(layer, given, name, parameter, module)
    items = []
    for name, parameter in signature.items():
        required = parameter.default is parameter.empty
        default = not required and to_source(given[name]) == to_source(parameter.default)
        items.append(Item("" if required else f"{name}=", Literal(name, given[name], default)))
    return Call(f"nn.{layer.__name__}(", tuple(items))


def _shorter(
    layer: type[nn.Module], given: dict[str, object], name: str, parameter: inspect.Parameter, module: nn.Module
) -> dict[str, object]:
    """Return `given` with the argument `name` at its default, or as one number, if that makes no difference."""
    value = given[name]
    candidates = [] if parameter.default is parameter.empty else [parameter.default]
    if isinstance(value, tuple) and value and len(set(value)) == 1:
        candidates.append(value[0])
    for candidate in candidates:
        if candidate is not value and _constructs(layer, {**given, name: candidate}, module):
            return {**given, name: candidate}
    return given


def _same_methods(derived: type, base: type[nn.Module]) -> bool:
    cosmetic = ("extra_repr", "_get_name")
    return all(
        getattr(derived, name) is method
        for name, method in inspect.getmembers(base, inspect.isfunction)
        if name not in cosmetic and not name.startswith("__")
    )


def _signature(layer: type[nn.Module]) -> dict[str, inspect.Parameter]:
    constructor = nn.RNNBase.__init__ if issubclass(layer, nn.RNNBase) else layer.__init__
    ignored = ("self", "mode", *_PLACES) if issubclass(layer, nn.RNNBase) else ("self", *_PLACES)
    return {
        name: parameter
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name not in ignored
        and not name.startswith("_")
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def _value(module: nn.Module, parameter: inspect.Parameter) -> object:
    name = parameter.name
    if isinstance(module, nn.MultiheadAttention):
        name = _INFERRED.get(name, name)
    if not hasattr(module, name):
        if parameter.default is parameter.empty:
            raise NotExportableError(
                f"the argument {parameter.name!r} of its {type(module).__name__} cannot be recovered from it"
            )
        return parameter.default
    value = getattr(module, name)
    if isinstance(parameter.default, bool) and (value is None or isinstance(value, Tensor)):
        return value is not None
    return tuple(value) if isinstance(value, tuple) else value


def _constructs(layer: type[nn.Module], given: dict[str, object], module: nn.Module) -> bool:
    """Return whether `layer` constructed with `given` has the attributes and tensor shapes of `module`."""
    try:
        with torch.device("meta"):
            built = layer(**given)
    except (TypeError, ValueError, RuntimeError, AssertionError):
        return False
    plain = (bool, int, float, str, tuple, list, type(None))
    attributes = {
        name: value
        for name, value in vars(built).items()
        if isinstance(value, plain) and name != "training" and not name.startswith("_")
    }
    missing = object()
    return all(getattr(module, name, missing) == value for name, value in attributes.items()) and _shapes(
        built
    ) == _shapes(module)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}

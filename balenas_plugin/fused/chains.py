"""A candidate operation read as a chain of plain layers: ReLU, convolution, batch-norm, pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

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


Unwrap = Callable[[nn.Module], nn.Module | Zero | None]
"""Returns the module that a module only passes its input to, or None if it does something of its own."""


def read_chain(operation: nn.Module, unwrap: Mapping[type[nn.Module], Unwrap] | None = None) -> Chain | Zero | None:
    """Return `operation` as a chain, or None if anything in it is not known to be a plain layer.

    A layer is plain if its `forward` is torch's own, and if running its arithmetic elsewhere loses nothing: it has no
    hooks, is not in place, and pads with zeros.

    Args:
        operation: a candidate of a mixed operation.
        unwrap: by exact type, how to look into the wrappers of a framework.
    """
    wrapper = (unwrap or {}).get(type(operation))
    if wrapper is not None and not has_hooks(operation):
        inside = wrapper(operation)
        return inside if inside is None or isinstance(inside, Zero) else read_chain(inside, unwrap)
    if has_hooks(operation):
        return None
    if _is(operation, nn.Identity):
        return Chain(())
    if _is(operation, nn.Sequential):
        parts = [read_chain(part, unwrap) for part in operation.children()]
        if any(isinstance(part, Zero) for part in parts):
            return None  # a zero that is batch-normed, say; not worth knowing
        return _joined(parts)
    return Chain((operation,)) if _is_plain(operation) else None


def has_hooks(module: nn.Module) -> bool:
    """Return whether something listens to this module, and so it must be called."""
    return any(hooks_of(module))


def hooks_of(module: nn.Module) -> tuple[Mapping[int, object], ...]:
    """Return the tables in which a module keeps what listens to it; they are the same objects as long as it lives."""
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


def _joined(parts: list[Chain | Zero | None]) -> Chain | None:
    layers: list[nn.Module] = []
    for part in parts:
        if not isinstance(part, Chain):
            return None
        layers.extend(part.layers)
    return Chain(tuple(layers))


def _is(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether `module` is of `kind` and computes what `kind` does."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def _is_plain(layer: nn.Module) -> bool:
    kind = next((kind for kind in PLAIN_LAYERS if _is(layer, kind)), None)
    if kind is None:
        return False
    if isinstance(layer, nn.ReLU):
        return not layer.inplace
    if isinstance(layer, nn.Conv2d):
        own = type(layer)._conv_forward is nn.Conv2d._conv_forward
        return own and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, nn.BatchNorm2d):
        return layer.momentum is not None
    if isinstance(layer, nn.MaxPool2d):
        return not layer.return_indices
    return True


def _signature(layer: nn.Module) -> tuple[object, ...]:
    if isinstance(layer, nn.Conv2d):
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return ("conv", *sizes, layer.groups, layer.bias is None)
    if isinstance(layer, nn.BatchNorm2d):
        return ("norm", layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    options = {key: value for key, value in vars(layer).items() if not key.startswith("_") and key != "training"}
    return (type(layer).__name__, *sorted(options.items()))  # extra_repr leaves out some (count_include_pad)

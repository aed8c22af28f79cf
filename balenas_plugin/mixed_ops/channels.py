"""Surgery on the channels of candidate operations: build them narrower, widen them again, pass channels by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from balenas_plugin.errors import SpaceError, first_line
from balenas_plugin.restoring import untouched

Copies = Callable[[int, int], Tensor]
"""(number of channels, how many are added) -> which channel each added one is a copy of, int64."""

_SIDE = 16  # of the images that operations are tried on


def random_copies(generator: torch.Generator) -> Copies:
    """Return DrNAS's g(j): every added channel copies a channel that is there, uniformly at random."""
    return lambda channels, added: torch.randint(channels, (added,), generator=generator)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Return the channels of x, (N, C, ...), the first of each of the groups first, then the second ones, and so on.

    Source: Zhang et al. 2018 (ShuffleNet).
    """
    grouped: Tensor = x.unflatten(1, (groups, x.shape[1] // groups))
    return grouped.transpose(1, 2).flatten(1, 2)


def passed_by(rest: Tensor, like: Tensor) -> Tensor:
    """Return the channels that take no part in the resolution of what the others became.

    Args:
        rest: these channels of an operation's input, (N, C - C/k, ...).
        like: what the others became, (N, C/k, ...); where it is half as large, the rest is max-pooled.

    Source: Xu et al. 2020 (PC-DARTS).
    """
    if rest.shape[2:] == like.shape[2:]:
        return rest
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rest.dim() - 3]
    pooled: Tensor = pool(rest, 2, 2, ceil_mode=True)
    return pooled


def width_of(operation: nn.Module) -> int | None:
    """Return how many channels an operation takes, by its first layer with a width; None if any number will do."""
    return next((_widths(layer)[0] for layer in _layers(operation)), None)


def keeps_width(operation: nn.Module, width: int) -> bool:
    """Return whether an operation returns as many channels as it takes; what it cannot be tried on, it does not keep.

    Args:
        operation: is called once in evaluation mode, and left as it was.
        width: channels of its input.
    """
    try:
        return bool(_tried(operation, width).shape[1] == width)
    except Exception:  # of a module of the user's
        return False


def narrowed(operation: nn.Module, k: int, *, called: str = "the operation") -> nn.Module:
    """Return a copy of an operation with a k-th of the channels in all of its layers.

    Weights are the first ones of each layer, scaled as fewer inputs ask for: of the law that a layer of this size is
    initialised by, where that goes by the number of inputs as PyTorch's own do.

    Args:
        operation: made of convolutions (grouped and depthwise too), linear layers, batch-norms, layers without
            parameters, and modules of those; it returns as many channels as it takes.
        k: divides every number of channels in it.
        called: what messages call it.

    Raises:
        SpaceError: k does not divide a number of channels, or the operation does not run with fewer channels.
    """
    narrow, width = copy.deepcopy(operation), width_of(operation)
    owned = {id(tensor) for layer in _layers(narrow) for tensor in _tensors(layer)}
    for name, module in narrow.named_modules():
        if any(id(tensor) not in owned for tensor in _tensors(module)):
            raise SpaceError(
                f"{_place(called, name)} is a {type(module).__name__}, of which partial channels cannot be built: that "
                "takes convolutions, linear layers and batch-norms"
            )
    for name, module in narrow.named_modules():
        if isinstance(module, _KINDS):
            _narrow(module, k, _place(called, name))
    if width is not None:
        try:
            found = _tried(narrow, width // k).shape[1]
        except Exception as error:  # whatever a module of the user's raises
            raise SpaceError(
                f"{called} does not run with {width // k} of its {width} channels ({first_line(error)}), as partial "
                f"channels with k={k} need it"
            ) from error
        if found != width // k:
            raise SpaceError(f"{called} makes {found} channels of {width // k}, so partial channels cannot use it")
    return narrow


def widen(
    operation: nn.Module, *, k: int, new_k: int, copies: Copies, optimizers: Iterable[torch.optim.Optimizer] = ()
) -> None:
    """Widen an operation in place from C/k to C/new_k channels; added channels are copies (DrNAS).

    The parameters stay the same objects, with more channels. Outputs copied by a convolution are what a batch-norm or a
    convolution right behind it copies as inputs. Nothing is divided by the number of copies: the function changes.

    Args:
        operation: as `narrowed` returns it.
        k: by which the channels are divided now.
        new_k: by which they are then, smaller.
        copies: which channels are copied, such as `random_copies`; asked for the inputs of a layer, then its outputs.
        optimizers: whose state of the parameters (momentum) is widened likewise.

    Raises:
        SpaceError: the channels cannot be divided by `new_k`.

    Source: Chen et al. 2021 (DrNAS), Section 3.3, and its code.
    """
    before: Tensor | None = None  # of each channel that reaches a layer, which it was; None: of the operation's input
    for layer in _layers(operation):
        before = _widen(layer, k, new_k, copies, before, list(optimizers))


def require_widenable(operation: nn.Module, *, k: int, new_k: int) -> None:
    """Raise SpaceError if an operation cannot be widened from C/k to C/new_k channels."""
    for layer in _layers(operation):
        _require_widenable(layer, k, new_k)


# -- layers -----------------------------------------------------------------------------------------------------------

_KINDS = (_ConvNd, nn.Linear, _NormBase)


def _layers(operation: nn.Module) -> Iterator[Any]:
    """Yield the layers that have a width, in the order in which they were defined."""
    for module in operation.modules():
        if isinstance(module, _KINDS) and not isinstance(module, _ConvTransposeNd):
            yield module


def _tensors(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a module itself."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _widths(layer: Any) -> tuple[int, int]:
    """Return how many channels go in and out."""
    if isinstance(layer, _NormBase):
        return layer.num_features, layer.num_features
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def _set_widths(layer: Any, inputs: int, outputs: int) -> None:
    if isinstance(layer, _NormBase):
        layer.num_features = outputs
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = inputs, outputs
    else:
        layer.groups = inputs if _depthwise(layer) else layer.groups
        layer.in_channels, layer.out_channels = inputs, outputs


def _depthwise(layer: Any) -> bool:
    return getattr(layer, "depthwise", isinstance(layer, _ConvNd) and 1 < layer.groups == layer.in_channels)


def _narrow(layer: Any, k: int, called: str) -> None:
    inputs, outputs = _widths(layer)
    if _depthwise(layer):
        layer.depthwise = True  # of a single channel it could not be seen any more
    groups = 1 if _depthwise(layer) else getattr(layer, "groups", 1)
    if inputs % (k * groups) or outputs % (k * groups):
        raise SpaceError(
            f"{called} ({type(layer).__name__}) has {inputs} channels and makes {outputs}, which cannot be divided by "
            f"k={k}{f' in its {groups} groups' if groups > 1 else ''}: choose another k, or other widths"
        )
    _set_widths(layer, inputs // k, outputs // k)
    scale = 1.0
    if not isinstance(layer, _NormBase):
        fewer = 1 if layer.weight.shape[1] == 1 else k
        layer.weight.data = layer.weight.data[:, : layer.weight.shape[1] // fewer]
        scale = fewer**0.5
    for tensor in _tensors(layer):
        if tensor.dim() > 0:  # not the number of batches
            tensor.data = tensor.data[: outputs // k].clone() * scale


def _widen(
    layer: Any,
    k: int,
    new_k: int,
    copies: Copies,
    before: Tensor | None,
    optimizers: list[torch.optim.Optimizer],
) -> Tensor:
    """Widen a layer; return of each of its output channels which it was."""
    _require_widenable(layer, k, new_k)
    inputs, outputs = _widths(layer)
    depthwise = _depthwise(layer)
    groups = 1 if depthwise else getattr(layer, "groups", 1)
    _set_widths(layer, inputs * k // new_k, outputs * k // new_k)
    fed = before if before is not None and len(before) == inputs * k // new_k else None
    within: Tensor | None = None
    if isinstance(layer, _NormBase):
        source = _sources(outputs, outputs * k // new_k, copies) if fed is None else fed
    else:
        if not depthwise:
            size = layer.weight.shape[1]
            within = _sources(size, size * k // new_k, copies) if fed is None or groups > 1 else fed
        size = outputs // groups
        parts = [_sources(size, size * k // new_k, copies) + size * part for part in range(groups)]
        source = torch.cat(parts)

    def wider(tensor: Tensor) -> Tensor:
        if within is not None and tensor.dim() > 1:
            tensor = tensor.index_select(1, within.to(tensor.device))
        return tensor.index_select(0, source.to(tensor.device))

    for tensor in _tensors(layer):
        if tensor.dim() > 0:
            for state in (optimizer.state[tensor] for optimizer in optimizers if tensor in optimizer.state):
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == tensor.shape:
                        state[name] = wider(value)
            tensor.data, tensor.grad = wider(tensor.data), None
    return source


def _require_widenable(layer: Any, k: int, new_k: int) -> None:
    inputs, outputs = _widths(layer)
    groups = 1 if _depthwise(layer) else getattr(layer, "groups", 1)
    if inputs * k % (new_k * groups) or outputs * k % (new_k * groups):
        raise SpaceError(
            f"a {type(layer).__name__} of {inputs * k} channels cannot be widened from k={k} to k={new_k}: these must "
            "divide the number of channels"
        )


def _sources(channels: int, wider: int, copies: Copies) -> Tensor:
    """Return of each of `wider` channels which it was of the `channels` before: themselves, and copies."""
    return torch.cat([torch.arange(channels), copies(channels, wider - channels)])


def _tried(operation: nn.Module, width: int) -> Tensor:
    """Return what an operation in evaluation mode makes of an input with `width` channels."""
    first: Any = next(_layers(operation))
    dimensions = next((n for n in (1, 2, 3) if any(kind.__name__.endswith(f"{n}d") for kind in type(first).__mro__)), 0)
    like = next(tensor for layer in _layers(operation) for tensor in _tensors(layer))
    x = torch.zeros(2, width, *([_SIDE] * dimensions), dtype=like.dtype, device=like.device)
    with untouched(operation), torch.no_grad():
        operation.eval()
        found: Tensor = operation(x)
        return found


def _place(called: str, name: str) -> str:
    return f"{called}.{name}" if name else called

"""Score a network with a proxy, and rank networks by it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from balenas_plugin.errors import OptionError
from balenas_plugin.proxies._evaluation.dependence import depends_on_input
from balenas_plugin.proxies._registry import Proxy, get_proxy


def score(name: str, model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return the value of the proxy `name` for `model` on one batch, exactly as the proxy is defined.

    The model is left as it was, also when this fails. Compare networks with `rank_value`: this value can be infinite
    (SynFlow), not a number (a network whose output does not depend on its input), or better when smaller.

    Args:
        name: one of `list_proxies()`.
        model: any network that maps `inputs` to one tensor, ``(N, number of classes)`` where labels are needed.
        inputs: a batch ``(N, ...)`` on the device and of the dtype of `model`; the proxy is computed in that dtype.
        targets: class indices ``(N,)``, for the proxies that need labels.

    Raises:
        OptionError: there is no such proxy, `targets` are missing, or the batch does not fit the model.
    """
    proxy = get_proxy(name)
    _check(proxy, model, inputs, targets)
    return _compute(proxy, model, inputs, targets, logarithm=False)


def rank_value(name: str, model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return a number to sort networks by with the proxy `name`: the larger, the better the network is thought to be.

    It is the proxy's value; its logarithm (nats) where the proxy gives one, as SynFlow does; negated where smaller is
    better. It is ``-inf``, so the last rank under every proxy, if the output of `model` does not depend on its input
    (see `depends_on_input`) and if the value is not finite. Arguments and errors are those of `score`.
    """
    proxy = get_proxy(name)
    _check(proxy, model, inputs, targets)
    if not depends_on_input(model, inputs):
        return -math.inf
    value = _compute(proxy, model, inputs, targets, logarithm=True)
    if not math.isfinite(value):
        return -math.inf
    return value if proxy.higher_is_better else -value


def _compute(proxy: Proxy, model: nn.Module, inputs: Tensor, targets: Tensor | None, *, logarithm: bool) -> float:
    compute = proxy.log_compute if logarithm and proxy.log_compute is not None else proxy.compute
    try:
        return float(compute(model, inputs, targets if proxy.needs_labels else None))
    except Exception as error:  # the model's own errors keep their type
        error.add_note(
            f"while computing the proxy {proxy.name!r} of {type(model).__name__} on inputs of shape "
            f"{tuple(inputs.shape)}; the model is unchanged"
        )
        raise


def _check(proxy: Proxy, model: nn.Module, inputs: Tensor, targets: Tensor | None) -> None:
    """Raise OptionError unless the arguments of `score` fit each other."""
    if not isinstance(model, nn.Module):
        raise OptionError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
    if not isinstance(inputs, Tensor) or inputs.dim() < 2 or inputs.shape[0] == 0:
        shown = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
        raise OptionError(f"inputs are {shown}; they must be a batch, a tensor of shape (N, ...) with N of at least 1")
    _check_placement(model, inputs)
    if not proxy.needs_labels:
        return
    if targets is None:
        raise OptionError(f"proxy {proxy.name!r} needs labels: pass `targets`, one class index per example")
    if not isinstance(targets, Tensor) or targets.shape != inputs.shape[:1] or targets.dtype != torch.int64:
        shown = f"{targets.dtype} of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else repr(targets)
        raise OptionError(f"targets are {shown}; they must be a torch.int64 tensor of shape ({inputs.shape[0]},)")
    if targets.device != inputs.device:
        raise OptionError(f"targets are on {targets.device}, inputs on {inputs.device}; move one of them")


def _check_placement(model: nn.Module, inputs: Tensor) -> None:
    """Raise OptionError if no parameter of `model` is on the device, or of the floating-point type, of `inputs`."""
    parameters = list(model.parameters())
    devices = sorted({str(parameter.device) for parameter in parameters})
    if devices and str(inputs.device) not in devices:
        raise OptionError(f"inputs are on {inputs.device}, the model on {', '.join(devices)}; move one of them")
    dtypes = sorted({str(parameter.dtype) for parameter in parameters if parameter.is_floating_point()})
    if dtypes and inputs.is_floating_point() and str(inputs.dtype) not in dtypes:
        raise OptionError(
            f"inputs are {inputs.dtype}, the model is {', '.join(dtypes)}; convert one of them with `.to`"
        )

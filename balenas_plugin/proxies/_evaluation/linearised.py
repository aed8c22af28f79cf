"""Run a network without its normalisations on an example of ones, as SynFlow does.

With every parameter replaced by its absolute value (`borrowed(absolute=True)`) the output of such a network is a sum
over all paths from the input to the output of the products of the weights on them: nothing cancels. Tokens stay what
they are, since they have no magnitude: the ones are what their embeddings give.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Result = TypeVar("Result")

_OVER_CHANNELS = (F.batch_norm, F.instance_norm, F.group_norm)
_OVER_LAST = (F.layer_norm, F.rms_norm)
_SIGNATURES = {function: inspect.signature(function) for function in (*_OVER_CHANNELS, *_OVER_LAST)}


class NormalisationRemoved(TorchFunctionMode):
    """Make every normalisation (batch, layer, ...) the identity, or with `keep_scale` the product with its weight.

    Each of them but RMS's subtracts a mean, so paths would cancel: behind a layer norm, ones are zeros.
    """

    def __init__(self, *, keep_scale: bool = False) -> None:
        super().__init__()
        self._keep_scale = keep_scale

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        options: dict[str, Any] = kwargs or {}
        if func not in _SIGNATURES:
            return func(*args, **options)
        given = _SIGNATURES[func].bind(*args, **options).arguments
        values, weight = given["input"], given.get("weight")
        if weight is None or not self._keep_scale:
            return values
        return values * (weight if func in _OVER_LAST else weight.reshape(1, -1, *[1] * (values.dim() - 2)))


class EmbeddingsAsInputs(TorchFunctionMode):
    """Make what every embedding gives an input of the network: `leaves`, which require grad. Enter it before others.

    Args:
        ones: give ones of the same shape in its place.
    """

    def __init__(self, *, ones: bool) -> None:
        super().__init__()
        self.leaves: list[Tensor] = []
        self._ones = ones

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in (F.embedding, F.embedding_bag):
            return result
        leaf = torch.ones_like(result) if self._ones else result.detach().clone()
        self.leaves.append(leaf.requires_grad_())
        return leaf


def is_differentiable(inputs: Tensor) -> bool:
    """Return whether there are gradients for `inputs`: they are no tokens."""
    return inputs.is_floating_point() or inputs.is_complex()


def example_of_ones(inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return one example ``(1, ...)`` of ones, of the size of an example of the batch `inputs` ``(N, ...)``.

    It is of type `dtype` (complex where `inputs` are), or of theirs; bytes (pixels) stay bytes. Of other whole numbers,
    which are tokens, it is the first example itself.
    """
    if is_differentiable(inputs):
        dtype = inputs.dtype if dtype is None else dtype.to_complex() if inputs.is_complex() else dtype
    elif inputs.dtype == torch.uint8:
        dtype = torch.uint8
    else:
        return inputs[:1]
    return torch.ones((1, *inputs.shape[1:]), dtype=dtype, device=inputs.device)


def in_double_if_possible(compute: Callable[[torch.dtype | None], Result]) -> Result:
    """Return ``compute(torch.float64)``; ``compute(None)``, the network's own type, where it converts values itself."""
    try:
        return compute(torch.float64)
    except RuntimeError:  # e.g. `x.float()`, which then meets weights of another type
        return compute(None)

"""Run a network without its batch-norms on an example of ones, as SynFlow does.

With every parameter replaced by its absolute value (`borrowed(absolute=True)`) the output of such a network is a sum
over all paths from the input to the output of the products of the weights on them: nothing cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class BatchNormRemoved(TorchFunctionMode):
    """Make every batch-norm the identity, or with `keep_scale` the product with its weight alone."""

    def __init__(self, *, keep_scale: bool = False) -> None:
        super().__init__()
        self._keep_scale = keep_scale

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        options: dict[str, Any] = kwargs or {}
        if func is F.batch_norm:
            return self._identity(*args, **options)
        return func(*args, **options)

    def _identity(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        *_: object,
        **__: object,
    ) -> Tensor:
        if weight is None or not self._keep_scale:
            return input
        return input * weight.reshape(1, -1, *[1] * (input.dim() - 2))


def example_of_ones(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Return one example ``(1, ...)`` of ones, of the size of an example of the batch `inputs` ``(N, ...)``."""
    return torch.ones((1, *inputs.shape[1:]), dtype=dtype, device=inputs.device)

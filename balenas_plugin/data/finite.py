"""Find NaN and infinity in a batch, so that a loss that is not finite is blamed on what broke it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.errors import NonFiniteLossError

_logger = logging.getLogger(__name__)


def not_finite(batch: Any, name: str = "batch") -> list[str]:
    """Return a phrase for every tensor of a batch that has NaN or infinity in it: where and how many.

    Args:
        batch: tensors, or mappings, lists, tuples and objects of them, as loaders give them.
        name: of the batch, from which places are written as in Python: ``batch['train'][0]``.
    """
    return [phrase for place, tensor in _tensors(batch, name, set()) if (phrase := _phrase(place, tensor))]


def _phrase(place: str, tensor: Tensor) -> str | None:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.layout != torch.strided:
        return None
    bad = ~torch.isfinite(tensor.detach())
    count = int(bad.sum())
    if not count:
        return None
    nan = int(torch.isnan(tensor.detach()).sum())
    kinds = [f"{nan:,} NaN"] if nan else []
    kinds += [f"{count - nan:,} infinite"] if count > nan else []
    examples = f", in {int(bad.flatten(1).any(1).sum()):,} of {len(tensor):,} examples" if tensor.dim() > 1 else ""
    return f"{place} of shape {tuple(tensor.shape)} has {' and '.join(kinds)} of {tensor.numel():,} values{examples}"


def _tensors(value: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif id(value) in seen or isinstance(value, str | bytes):
        return
    else:
        seen.add(id(value))
        if isinstance(value, Mapping):
            parts = [(f"{place}[{key!r}]", part) for key, part in value.items()]
        elif isinstance(value, list | tuple):
            names = getattr(value, "_fields", None)
            parts = [(f"{place}.{names[k]}" if names else f"{place}[{k}]", part) for k, part in enumerate(value)]
        else:
            parts = [(f"{place}.{key}", part) for key, part in getattr(value, "__dict__", {}).items()]
        for inner, part in parts:
            yield from _tensors(part, inner, seen)


@contextmanager
def data_examined(batch: Any, *, cure: str, first: bool = False) -> Iterator[None]:
    """Blame the data for a loss in the block that is not finite, if they hold NaN or infinity.

    Args:
        batch: that the block computes with.
        cure: end of the error's message, which then does not apply.
        first: look at the batch in any case, and warn: a loss may hide what its gradient does not.

    Raises:
        NonFiniteLossError: as the block raised it, but for its cure.
    """
    try:
        yield
    except NonFiniteLossError as error:
        broken = not_finite(batch)
        if not broken:
            raise
        raise NonFiniteLossError(
            f"{str(error).removesuffix(cure)}The data are to blame, not a learning rate: {'; '.join(broken)}. Repair "
            "or leave out these examples, or mask them where the loss is computed."
        ) from error
    if first and (broken := not_finite(batch)):
        _logger.warning("the data hold values that are not finite: %s. Is that intended?", "; ".join(broken))

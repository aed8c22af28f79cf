"""Data loaders looked at before a search starts, and batches split among draws."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import DistributedSampler

from balenas_plugin.errors import EvaluatorError


def number_of_examples(loader: Any) -> int | None:
    """Return how many examples one pass over `loader` sees, in all processes together, or None if it cannot tell."""
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        sampler = sampler.dataset  # the sampler's own length is that of one process's share
    for holder in (sampler, getattr(loader, "dataset", None)):
        try:
            return len(holder)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            continue
    return None


def require_a_batch(loader: Any, which: str) -> None:
    """Raise unless `loader` can give one whole batch.

    Raises:
        EvaluatorError: the set has fewer examples than a batch.
    """
    examples, batch_size = number_of_examples(loader), getattr(loader, "batch_size", None)
    if examples is not None and examples < (batch_size or 1):
        raise EvaluatorError(
            f"the {which} set has {examples} examples, fewer than one batch of {batch_size}: "
            "lower the batch size or give more data"
        )


def split_batch(batch: Any, parts: int) -> list[Any]:
    """Split a batch along its examples into `parts` of sizes that differ by one at most, in order.

    Args:
        batch: a tensor, or tuples, lists and mappings of tensors, all with one first dimension; strings, numbers and
            None in it go to every part.
        parts: how many; a batch with less than 2 * `parts` examples is not split (batch-norm needs two), and each part
            is the whole.

    Raises:
        EvaluatorError: the tensors of the batch disagree on the number of examples, or there is none.
    """
    if parts == 1:
        return [batch]
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in _tensors(batch)}
    if len(sizes) != 1 or 0 in sizes:
        raise EvaluatorError(
            'mc_batches="split" needs batches whose tensors all have the examples as first dimension, got sizes '
            f'{sorted(sizes)}. Use mc_batches="full".'
        )
    (size,) = sizes
    if size < 2 * parts:
        return [batch] * parts
    bounds = [size * k // parts for k in range(parts + 1)]
    return [_slice(batch, start, stop) for start, stop in itertools.pairwise(bounds)]


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (tuple, list, Mapping)):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(part)


def _slice(batch: Any, start: int, stop: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[start:stop]
    if isinstance(batch, Mapping):
        return {key: _slice(value, start, stop) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [_slice(value, start, stop) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch

"""Data loaders looked at before a search starts, and batches split among draws."""

from __future__ import annotations

import copy
import itertools
from collections import UserDict
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DistributedSampler

from balenas_plugin.errors import EvaluatorError


def number_of_examples(loader: Any) -> int | None:
    """Return how many examples one pass over `loader` sees, in all processes together, None if unknown."""
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        sampler = sampler.dataset  # the sampler's own length is that of one process's share
    for holder in (sampler, getattr(loader, "dataset", None)):
        try:
            return len(holder)  # type: ignore[arg-type]  # or TypeError
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


def number_in_batch(batch: Any) -> int | None:
    """Return how many examples a batch has; None unless all of its tensors have as many entries."""
    sizes = {leaf.shape[0] if leaf.dim() else 0 for leaf in _leaves(batch) if isinstance(leaf, Tensor)}
    return sizes.pop() if len(sizes) == 1 else None


def split_batch(batch: Any, parts: int, examples: int | None = None) -> list[Any]:
    """Split a batch along its examples into `parts` of sizes that differ by one at most, in order.

    Args:
        batch: a tensor, or tuples, lists, mappings and dataclasses of tensors, all with one first dimension. A list of
            as many strings or numbers is split too; other strings, numbers and None in it go to every part.
        parts: how many; a batch with less than 2 * `parts` examples is not split (batch-norm needs two), and each part
            is the whole.
        examples: how many there are, where that is known: a list of graphs, say, has their nodes as first dimension.

    Raises:
        EvaluatorError: the tensors of the batch disagree on the number of examples, or there is none, or it holds
            something that cannot be split.
    """
    if parts == 1:
        return [batch]
    leaves = list(_leaves(batch))
    unknown = {type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor | _PLAIN)}
    sizes = {leaf.shape[0] if leaf.dim() else 0 for leaf in leaves if isinstance(leaf, Tensor)}
    if unknown or len(sizes) != 1 or 0 in sizes or examples not in (None, *sizes):
        found = f"objects of {', '.join(sorted(unknown))}" if unknown else f"sizes {sorted(sizes)}"
        found += "" if examples is None else f" from a loader with a batch size of {examples}"
        raise EvaluatorError(
            'mc_batches="split" needs batches whose tensors all have the examples as first dimension, got '
            f'{found}. Use mc_batches="full".'
        )
    (size,) = sizes
    if size < 2 * parts:
        return [batch] * parts
    bounds = [size * k // parts for k in range(parts + 1)]
    return [_slice(batch, size, slice(start, stop)) for start, stop in itertools.pairwise(bounds)]


_PLAIN = str | bytes | int | float | None
_CONTAINERS: Any = tuple | list | Mapping


def _leaves(batch: Any) -> Iterator[Any]:
    if isinstance(batch, _CONTAINERS) and not isinstance(batch, PackedSequence):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _leaves(part)
    elif is_dataclass(batch):
        for field in fields(batch):
            yield from _leaves(getattr(batch, field.name))
    else:
        yield batch


def _slice(batch: Any, size: int, part: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[part]
    if isinstance(batch, Mapping):
        same = copy.copy(batch) if isinstance(batch, dict | UserDict) else {}  # it may be more than a dict
        for key, value in batch.items():
            same[key] = _slice(value, size, part)
        return same
    if isinstance(batch, tuple | list):
        if len(batch) == size and all(isinstance(value, _PLAIN) for value in batch):
            return batch[part]  # one for each example, such as file names
        values = [_slice(value, size, part) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: _slice(getattr(batch, f.name), size, part) for f in fields(batch) if f.init})
    return batch

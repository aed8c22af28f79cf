"""Read a loader's data by position: the same batches whenever they are asked for, and no random number of a search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler

from balenas_plugin.data import ImageSet
from balenas_plugin.errors import EvaluatorError


def positions_of(loader: Any, which: str) -> Tensor:
    """Return the positions, in its data set, of the examples that a loader gives, int64, shape (N,).

    Args:
        loader: of either half; a `SubsetRandomSampler` is how many scripts distinguish the halves of one set.
        which: half it is, for the message.

    Raises:
        EvaluatorError: the loader has no data set that can be read by position.
    """
    dataset: Any = getattr(loader, "dataset", None)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise EvaluatorError(f"the {which} loader has no data set that can be read by position")
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, SubsetRandomSampler):
        return torch.as_tensor(list(sampler.indices), dtype=torch.int64)
    return torch.arange(len(dataset))


def batches_at(loader: Any, positions: Tensor) -> Iterator[Any]:
    """Yield the examples at `positions` in batches as the loader would make them.

    The loader itself is not asked: it would draw from its own random generator.
    """
    dataset, size = loader.dataset, batch_size_of(loader)
    if isinstance(dataset, ImageSet):  # which may lie on the device
        yield from (dataset.batch(numbers) for numbers in positions.to(dataset.labels.device).split(size))
    else:
        subset = Subset(dataset, positions.tolist())
        yield from DataLoader(subset, batch_size=size, collate_fn=getattr(loader, "collate_fn", None))


def batch_size_of(loader: Any) -> int:
    """Return a loader's batch size; 64 if it does not say."""
    return getattr(loader, "batch_size", None) or 64

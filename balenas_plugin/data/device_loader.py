"""Batches of an image set that lies whole on the device: no worker processes, no copies from batch to batch.

A set of CIFAR's size takes 77 MB as bytes. Kept where the network is, a batch is a gather, a crop and a normalisation
of it, all on that device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from balenas_plugin.data.image_set import ImageSet

_SHARE_OF_MEMORY = 0.5  # of what is free; the search needs the rest


class EpochOrder:
    """Which pass over the data this is; Lightning gives the epoch to what a loader holds as `sampler`.

    Every random number of a pass is drawn from generators seeded by (seed, epoch, how-manieth pass of the epoch), so
    there is no state to save: a search resumed at an epoch draws what the uninterrupted one draws.

    Args:
        length: number of examples.
        seed: of all passes.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self._epoch = 0
        self._passes = 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; setting the same one again changes nothing."""
        if epoch != self._epoch:
            self._epoch, self._passes = epoch, 0

    def next_pass(self) -> str:
        """Return a name of the pass that begins, different for each."""
        self._passes += 1
        return f"{self.seed} {self._epoch} {self._passes}"

    def next_generator(self) -> torch.Generator:
        """Return a generator for the pass that begins, on the CPU."""
        return torch.Generator().manual_seed(_seed(self.next_pass()))


class DeviceLoader:
    """Iterate over batches (images, labels) of a set in memory, made on the device that the set is moved to.

    Where torch.distributed runs, each process sees its own share: every W-th example of the common permutation, filled
    up from its start so that all have as many (as `torch.utils.data.DistributedSampler` does).

    Args:
        images: a set in memory.
        batch_size: examples per batch, in each process; the last batch of a pass may be smaller.
        shuffle: whether every pass has an order of its own.
        seed: of the orders and of the augmentation; torch's global generator is not used.
        device: where the set is kept.
        shared: whether processes share the examples; else each sees them all.

    Raises:
        ValueError: the set is not in memory.
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        device: torch.device | str = "cpu",
        shared: bool = True,
    ) -> None:
        self.dataset = images.to(torch.device(device))
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._shared = shared
        self.sampler = EpochOrder(len(images), seed)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.dataset.labels.device

    def __len__(self) -> int:
        _, processes = _place() if self._shared else (0, 1)
        return math.ceil(math.ceil(len(self.dataset) / processes) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rank, processes = _place() if self._shared else (0, 1)
        name = self.sampler.next_pass()
        order = self._order(name)
        count = math.ceil(len(order) / processes)
        order = order.repeat(math.ceil(count * processes / len(order)))[rank : count * processes : processes]
        generator = torch.Generator(self.device).manual_seed(_seed(f"{name} {rank}"))
        for numbers in order.to(self.device).split(self.batch_size):
            yield self.dataset.batch(numbers, generator=generator)

    def _order(self, name: str) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        return torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(_seed(name)))


def unfit_for_device(images: ImageSet, device: torch.device) -> str | None:
    """Return why the set cannot be kept on `device`, or None if it can."""
    if images.num_bytes is None:
        return "its images are read from files when they are needed"
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if not fits(images.num_bytes, free):
            return f"its {images.num_bytes / 2**30:.1f} GiB are more than half of the {free / 2**30:.1f} GiB free there"
    return None


def fits(num_bytes: int, free: int) -> bool:
    """Return whether a set of that size may be kept in memory of which so much is free."""
    return num_bytes <= _SHARE_OF_MEMORY * free


def _place() -> tuple[int, int]:
    """Return the number of this process, and how many there are."""
    running = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if running else (0, 1)


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1

"""A torch data set that fetches, augments and normalises a whole batch in a few tensor operations.

`torch.utils.data.DataLoader` hands all indices of a batch to `__getitems__` where a data set has one. With `collate`
as `collate_fn` the batch made there is passed on as it is. A plain DataLoader works too, and gives the same values;
it takes the batch apart and stacks it again.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from balenas_plugin.data.augment import augment, cutout
from balenas_plugin.data.images import ImageStore, MemoryImages, Transform


class ImageBatch(Sequence[tuple[Tensor, int]]):
    """A batch that is already stacked, and can still be read as a sequence of (image, label) samples.

    Attributes:
        images: float32, shape (B, 3, H, W).
        labels: int64, shape (B,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:  # type: ignore[override]  # slices are not needed
        return self.images[index], int(self.labels[index])


def collate(batch: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return (images, labels) of an `ImageBatch` without copying; stack the samples of any other sequence.

    Other sequences come from wrappers that fetch one sample at a time, such as `torch.utils.data.ConcatDataset`.
    A module-level function, so that worker processes can pickle it.
    """
    if isinstance(batch, ImageBatch):
        return batch.images, batch.labels
    images, labels = default_collate(list(batch))
    return images, labels


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Labelled images: augmented (or not), then normalised to (x / 255 - mean) / std per channel.

    Random numbers come from torch's global generator. In the main process (`num_workers` = 0) restoring its state
    therefore restores every later batch bit for bit. Worker processes are seeded by the DataLoader from that same
    generator at the start of each epoch, so the same holds at epoch boundaries.
    """

    def __init__(
        self,
        store: ImageStore,
        labels: Tensor,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        augmentation: str,
    ) -> None:
        self.store = store
        self.labels = labels
        self.augmentation = augmentation
        self.cutout = 0
        self._mean = 255 * torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1)
        self._scale = 1 / (255 * torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image, float32 (3, H, W), and its label; a batch of one, with its own random draw."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        """Return the batch of `indices`: one draw of the augmentation for all of it."""
        return ImageBatch(*self.batch(torch.as_tensor(indices, dtype=torch.int64)))

    def batch(self, numbers: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return images, float32 (B, 3, H, W), and labels, int64 (B,), on the device of the set.

        Args:
            numbers: int64, shape (B,), on that device.
            generator: of the augmentation, on that device; None: torch's global CPU generator.
        """
        labels = self.labels[numbers]  # first: an index out of range raises IndexError for any store
        pixels = augment(self.store.fetch(numbers), augmentation=self.augmentation, generator=generator)
        images = pixels.float().sub_(self._mean).mul_(self._scale)
        return cutout(images, self.cutout, generator) if self.cutout else images, labels

    def augmented(self, augmentation: str, *, cutout: int = 0, transform: Transform | None = None) -> ImageSet:
        """Return the set with another augmentation.

        Args:
            augmentation: a word of `AUGMENTATIONS`.
            cutout: side in pixels of the square that is cut out of each image; 0: none.
            transform: changes each image by itself before (`ImageStore.transformed`).
        """
        changed = copy.copy(self)
        changed.augmentation, changed.cutout = augmentation, cutout
        if transform is not None:
            changed.store = self.store.transformed(transform)
        return changed

    def part(self, numbers: Tensor) -> ImageSet:
        """Return the set of some of the images, by their numbers, int64, shape (m,)."""
        changed = copy.copy(self)
        changed.store, changed.labels = self.store.part(numbers), self.labels[numbers]
        return changed

    @property
    def num_bytes(self) -> int | None:
        """Size of the images in memory; None if they are read when needed."""
        return self.store.pixels.nbytes if isinstance(self.store, MemoryImages) else None

    def to(self, device: torch.device) -> ImageSet:
        """Return a set with the images and labels on `device`; on the device that they are on, nothing is copied.

        Raises:
            ValueError: the images are not in memory.
        """
        if not isinstance(self.store, MemoryImages):
            raise ValueError("only images in memory can be moved to a device")
        moved = copy.copy(self)
        moved.store = MemoryImages(self.store.pixels.to(device))
        for name in ("labels", "_mean", "_scale"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

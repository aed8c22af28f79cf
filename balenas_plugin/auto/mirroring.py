"""Find out whether a mirrored image is still what it is, as photographs are and digits are not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_KNOWN, _ASKED = 5000, 1000  # images that are compared with, and that are mirrored
_STANDARD_ERRORS = 2


@dataclass(frozen=True)
class Mirroring:
    """How well images are recognised by their nearest neighbour.

    Args:
        as_they_are: share of images whose nearest other image is of their class.
        mirrored: the same of mirrored images.
        error: standard error of the difference.
    """

    as_they_are: float
    mirrored: float
    error: float

    @property
    def keeps_classes(self) -> bool:
        """Whether training may mirror images: they are recognised about as well."""
        return self.mirrored >= self.as_they_are - _STANDARD_ERRORS * self.error

    def __str__(self) -> str:
        does = "mirrors images at random" if self.keeps_classes else "does not mirror images"
        return (
            f"training {does}: by their nearest neighbours {self.as_they_are:.0%} are recognised as they are, "
            f"{self.mirrored:.0%} mirrored"
        )


def mirroring(pixels: Tensor, labels: Tensor, *, seed: int) -> Mirroring:
    """Return how well images are recognised, as they are and mirrored.

    Args:
        pixels: uint8, shape (n, side, side, 3).
        labels: int64, shape (n,).
        seed: of the images that are taken where there are very many.
    """
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:_KNOWN]
    known, classes = pixels[rows].float(), labels[rows]
    asked = min(len(rows), _ASKED)
    itself = torch.arange(asked)
    right = []
    for images in (known[:asked], known[:asked].flip(2)):
        distances = torch.cdist(images.flatten(1), known.flatten(1))
        distances[itself, itself] = torch.inf
        right.append((classes[distances.argmin(1)] == classes[:asked]).float())
    as_they_are, mirrored = (float(each.mean()) for each in right)
    return Mirroring(as_they_are, mirrored, float((right[0] - right[1]).std(correction=0)) / asked**0.5)

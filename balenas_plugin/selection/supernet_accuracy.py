"""Accuracy of a trained supernet's weights on one architecture after the other: a criterion to rank them by."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.errors import OptionError

SUPERNET_ACCURACY = "supernet_accuracy"
"""Its name among those of the proxies."""

_SEEDS = 2**63 - 1
"""Of the batches; of a supernet's two halves each has seeds of its own, 2 seed and the next one, below torch's 2^64."""

Batch = tuple[Tensor, Tensor]
"""Images (B, ...) and labels (B,)."""


class Mixture(Protocol):
    """A supernet that mixes its candidates as it is told."""

    network: nn.Module

    def mean_weights(self) -> Mapping[str, Tensor]:
        """Return the mean mixing weights that the search has left: label -> shape (K,)."""

    def mixing(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Let every mixed operation use these mixing weights, label -> shape (K,), inside the block."""


class Supernet(Protocol):
    """A trained supernet, and the two halves of the data that it was trained on."""

    def network(self, architecture: Architecture) -> nn.Module:
        """Return an architecture's network with a copy of the supernet's weights; the supernet stays as it is."""

    def mixture(self) -> Mixture:
        """Return a copy of all of the supernet."""

    def weight_batches(self, count: int, *, seed: int) -> Sequence[Batch]:
        """Return `count` batches, or all there are, of the half that trained the weights; the seed chooses which."""

    def architecture_batches(self, images: int, *, seed: int) -> Sequence[Batch]:
        """Return `images` images, or all there are, of the half that trained the architecture, in batches."""


class SupernetAccuracy:
    """Share of architecture-half images that an architecture gets right with the supernet's weights, from 0 to 1.

    Batch-norm's running statistics of the supernet are of its mixture of operations, so they are not used.

    Args:
        supernet: after its search.
        images: of the architecture half; the standard error of an accuracy p is sqrt(p (1 - p) / images).
        batch_norm_batches: of the weight half, from which batch-norm's statistics are estimated for each architecture.
        seed: chooses the images.
        own_images: each architecture sees other images, chosen by what it is too; by default all see the same.
        batch_statistics: batch-norm takes the statistics of each batch that is counted on, and nothing is estimated.

    Raises:
        OptionError: the batches are not those of a classification.

    Source: Guo et al. 2020, "Single Path One-Shot Neural Architecture Search with Uniform Sampling", Section 3.4;
    Li and Talwalkar 2020, "Random Search and Reproducibility for Neural Architecture Search", for images of its own.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        images: int,
        batch_norm_batches: int,
        seed: int,
        own_images: bool = False,
        batch_statistics: bool = False,
    ) -> None:
        self._supernet, self._images, self._seed = supernet, images, seed
        self._own_images, self._batch_statistics = own_images, batch_statistics
        self._weight_batches = [] if batch_statistics else supernet.weight_batches(batch_norm_batches, seed=seed)
        self._batches = self._classified(seed)

    def _classified(self, seed: int) -> Sequence[Batch]:
        batches = self._supernet.architecture_batches(self._images, seed=seed)
        for _, labels in batches:
            if labels.ndim != 1 or labels.is_floating_point():
                raise OptionError(
                    f"{SUPERNET_ACCURACY} counts images that are classified rightly, so every label must be the number "
                    f"of a class; the validation loader gives {labels.dtype} of shape {tuple(labels.shape)}. Rank by "
                    "a proxy that needs no labels, such as synflow, or by probability"
                )
        several = [batch for batch in batches if len(batch[1]) > 1]  # a single image has no statistics
        return several if self._batch_statistics and several else batches

    @property
    def device(self) -> torch.device:
        """Where the images are, and the networks run."""
        return self._batches[0][1].device

    def __call__(self, architecture: Architecture) -> float:
        """Return the accuracy of an architecture.

        Raises:
            OptionError: the network returns something other than class scores, shape (B, classes).
        """
        batches = self._batches
        if self._own_images:
            own = zlib.crc32(repr(sorted(architecture.items())).encode())
            batches = self._classified(((self._seed << 32) + own) % _SEEDS)
        return self.of(self._supernet.network(architecture), batches)

    def of(self, network: nn.Module, batches: Sequence[Batch] | None = None) -> float:
        """Return the accuracy of a network, whose batch-norm's statistics change.

        Raises:
            OptionError: it returns something other than class scores, shape (B, classes).
        """
        if self._batch_statistics:
            network.eval()
            for norm in batch_norms(network):
                norm.train()
        else:
            estimate_batch_norm(network, [images for images, _ in self._weight_batches])
        right, count = torch.zeros((), dtype=torch.int64, device=self.device), 0
        with torch.no_grad():
            for images, labels in self._batches if batches is None else batches:
                right += number_right(network(images), labels)
                count += len(labels)
        return int(right) / count

    def mixture(self) -> Mixture:
        """Return a copy of the supernet."""
        return self._supernet.mixture()

    def weight_batches(self, count: int, *, seed: int) -> Sequence[Batch]:
        """Return batches of the half that trained the weights."""
        return self._supernet.weight_batches(count, seed=seed)


def number_right(scores: object, labels: Tensor) -> Tensor:
    """Return how many of the labels, shape (B,), have the largest of their class scores, shape (B, classes).

    Raises:
        OptionError: the scores have another shape.
    """
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(labels):
        raise OptionError(
            f"{SUPERNET_ACCURACY} needs a classifier, whose outputs have the shape (images, classes); "
            f"the network returns {tuple(getattr(scores, 'shape', ())) or type(scores).__name__}"
        )
    return (scores.argmax(1) == labels).sum()


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch-norms that keep running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def estimate_batch_norm(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """Replace batch-norm's statistics by their mean over some batches; leave the network in evaluation mode.

    Args:
        network: whose weights stay as they are.
        batches: inputs, of more than one example each.
    """
    norms = batch_norms(network)
    network.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, each counted alike
        norm.train()
    with torch.no_grad():
        for inputs in batches:
            network(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()

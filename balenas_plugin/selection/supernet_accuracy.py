"""Accuracy of a trained supernet's weights on one architecture after the other: a criterion to rank them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.errors import OptionError

SUPERNET_ACCURACY = "supernet_accuracy"
"""Its name among those of the proxies."""

Batch = tuple[Tensor, Tensor]
"""Images (B, ...) and labels (B,)."""


class Supernet(Protocol):
    """A trained supernet, and the two halves of the data that it was trained on."""

    def network(self, architecture: Architecture) -> nn.Module:
        """Return an architecture's network with a copy of the supernet's weights; the supernet stays as it is."""

    def weight_batches(self, count: int, *, seed: int) -> Sequence[Batch]:
        """Return `count` batches, or all there are, of the half that trained the weights; the seed chooses which."""

    def architecture_batches(self, images: int, *, seed: int) -> Sequence[Batch]:
        """Return `images` images, or all there are, of the half that trained the architecture, in batches."""


class SupernetAccuracy:
    """Share of architecture-half images that an architecture gets right with the supernet's weights, from 0 to 1.

    All architectures see the same images. Batch-norm's statistics are estimated anew for each: those of the supernet
    are of its mixture of operations.

    Args:
        supernet: after its search.
        images: of the architecture half; the standard error of an accuracy p is sqrt(p (1 - p) / images).
        batch_norm_batches: of the weight half, for batch-norm's statistics.
        seed: chooses the images.

    Raises:
        OptionError: the batches are not those of a classification.

    Source: Guo et al. 2020, "Single Path One-Shot Neural Architecture Search with Uniform Sampling", Section 3.4.
    """

    def __init__(self, supernet: Supernet, *, images: int, batch_norm_batches: int, seed: int) -> None:
        self._supernet = supernet
        self._weight_batches = supernet.weight_batches(batch_norm_batches, seed=seed)
        self._architecture_batches = supernet.architecture_batches(images, seed=seed)
        for _, labels in self._architecture_batches:
            if labels.ndim != 1 or labels.is_floating_point():
                raise OptionError(
                    f"{SUPERNET_ACCURACY} counts images that are classified rightly, so every label must be the number "
                    f"of a class; the validation loader gives {labels.dtype} of shape {tuple(labels.shape)}"
                )

    @property
    def device(self) -> torch.device:
        """Where the images are, and the networks run."""
        return self._architecture_batches[0][1].device

    def __call__(self, architecture: Architecture) -> float:
        """Return the accuracy of an architecture.

        Raises:
            OptionError: the network returns something other than class scores, shape (B, classes).
        """
        network = self._supernet.network(architecture)
        with torch.no_grad():
            estimate_batch_norm(network, [images for images, _ in self._weight_batches])
            right = torch.zeros((), dtype=torch.int64, device=self.device)
            count = 0
            for images, labels in self._architecture_batches:
                scores = network(images)
                if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(labels):
                    raise OptionError(
                        f"{SUPERNET_ACCURACY} needs a classifier, whose outputs have the shape (images, classes); "
                        f"the network returns {tuple(getattr(scores, 'shape', ())) or type(scores).__name__}"
                    )
                right += (scores.argmax(1) == labels).sum()
                count += len(labels)
        return int(right) / count


def estimate_batch_norm(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """Replace batch-norm's statistics by their mean over some batches; leave the network in evaluation mode.

    Args:
        network: whose weights stay as they are.
        batches: inputs, of more than one example each.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
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

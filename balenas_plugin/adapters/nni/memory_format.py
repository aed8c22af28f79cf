"""Channels-last memory for image networks: the layout in which convolutions and pooling run fastest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from balenas_plugin.bayes.architect import restored
from balenas_plugin.errors import SpaceError

_logger = logging.getLogger(__name__)


def wants_channels_last(network: nn.Module, given: bool | None, *, reduced_precision: bool) -> bool:
    """Return whether to try channels-last memory.

    Args:
        network: what would be changed; it needs a 2d convolution.
        given: the user's option; None decides: on a CPU, and where an accelerator computes in 16 bits.
        reduced_precision: whether the search runs under autocast.
    """
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    if given is False or not convolutions:
        return False
    return given is True or convolutions[0].weight.device.type == "cpu" or reduced_precision


def use_channels_last(network: nn.Module, run_once: Callable[[], object]) -> bool:
    """Put the convolution weights of `network` into channels-last memory, from where activations take it over.

    Values stay the same. A network that depends on the layout (with `view` behind a convolution, say) raises; then all
    is put back and a message is logged. One that fails in torch's default layout as well raises here.

    Args:
        network: changed in place; its parameters stay the same objects.
        run_once: runs it on a batch. Random generators and buffers are put back afterwards.

    Returns:
        Whether it is in channels-last memory now.
    """
    weights = [p for p in network.parameters() if p.dim() == 4]
    before = [p.data for p in weights]
    for p in weights:
        p.data = p.data.contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad(), _undisturbed(network):
            run_once()
    except (RuntimeError, SpaceError) as error:
        for p, data in zip(weights, before, strict=True):
            p.data = data
        with torch.no_grad(), _undisturbed(network):
            run_once()
        _logger.warning(
            "channels_last is off: the network does not run in that memory format (%s). Use reshape or flatten in the "
            "place of view to make the search faster.",
            str(error.__cause__ or error).splitlines()[0],
        )
        return False
    return True


def use_contiguous(network: nn.Module) -> None:
    """Put the weights of `network` back into torch's default memory format, in which they are saved and exported."""
    for p in network.parameters():
        p.data = p.data.contiguous()


class ChannelsLast(pl.Callback):
    """Keep the network of a one-shot module in channels-last memory while it trains.

    Args:
        network: see `use_channels_last`.
        given: the user's option, see `wants_channels_last`.
        run_once: runs the network on a batch of the search, ``{"train": ..., "val": ...}``.
    """

    def __init__(self, network: nn.Module, given: bool | None, run_once: Callable[[Any], object]) -> None:
        self._network = network
        self._given = given
        self._run_once = run_once
        self._in_use: bool | None = None  # known at the first batch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Try it on the first batch."""
        if self._in_use is None:
            reduced = "16" in str(trainer.precision)
            wanted = wants_channels_last(self._network, self._given, reduced_precision=reduced)
            self._in_use = wanted and use_channels_last(self._network, lambda: self._run_once(batch))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the weights in the default memory format."""
        if self._in_use:
            use_contiguous(self._network)


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Put buffers and random generators back when the block ends."""
    buffers: list[Tensor] = list(network.buffers())
    devices = sorted({p.device.index or 0 for p in network.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices), restored(buffers):
        yield

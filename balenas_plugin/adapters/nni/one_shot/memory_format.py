"""Channels-last memory for image networks: the layout in which convolutions and pooling run fastest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from torch import nn
from torch.overrides import TorchFunctionMode

from balenas_plugin.adapters.nni.one_shot.metrics import undisturbed

_logger = logging.getLogger(__name__)


def may_use_channels_last(network: nn.Module, given: bool | None, *, reduced_precision: bool) -> bool:
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


def use_channels_last(network: nn.Module, *steps: Callable[[], object]) -> bool:
    """Put the convolution weights of `network` into channels-last memory, from where activations take it over.

    Values stay the same. If a step fails that runs in torch's default layout (one with `view` behind a convolution,
    say), all is put back and a message is logged. A step that fails in both is none of the layout's business: the
    search will report it, if it fails there too. If none can be tried, torch's layout stays.

    Args:
        network: changed in place; its parameters stay the same objects.
        steps: each runs the network on a batch; together all that the search will do with it.

    Returns:
        Whether it is in channels-last memory now.
    """
    weights = [p for p in network.parameters() if p.dim() == 4]
    tried = False
    for step in steps:
        _set_format(weights, torch.channels_last)
        try:
            with _NoStrides():
                step()
            tried = True
        except Exception as error:  # whatever the user's code raises
            _set_format(weights, torch.contiguous_format)
            if not _runs(step):
                continue
            reason = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0]
            _logger.warning(
                "channels_last is off: the network does not run in that memory format (%s). Use reshape or flatten in "
                "the place of view to make the search faster.",
                reason,
            )
            return False
    _set_format(weights, torch.channels_last if tried else torch.contiguous_format)
    return tried


def _set_format(weights: Sequence[nn.Parameter], memory_format: torch.memory_format) -> None:
    for p in weights:
        p.data = p.data.contiguous(memory_format=memory_format)


def _runs(step: Callable[[], object]) -> bool:
    try:
        step()
    except Exception:
        return False
    return True


class _NoStrides(TorchFunctionMode):
    """Refuse to read memory in its own order: in another layout that gives other values, not an error."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the function."""
        if getattr(func, "__name__", "") in ("as_strided", "as_strided_") and args and not args[0].is_contiguous():
            raise RuntimeError("as_strided reads memory in its own order")
        return func(*args, **(kwargs or {}))


def use_contiguous(network: nn.Module) -> None:
    """Put the weights of `network` back into torch's default memory format, in which they are saved and exported."""
    for p in network.parameters():
        p.data = p.data.contiguous()


class ChannelsLast(pl.Callback):
    """Keep the network of a one-shot module in channels-last memory while it trains.

    Args:
        network: returns the network of now; see `use_channels_last`.
        given: the user's option, see `may_use_channels_last`.
        steps: returns all that the search does on a batch, ``{"train": ..., "val": ...}``. What they leave is put back.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        given: bool | None,
        steps: Callable[[Any], Sequence[Callable[[], object]]],
    ) -> None:
        self._network = network
        self._given = given
        self._steps = steps
        self._in_use: bool | None = None  # known at the first batch

    def forget(self) -> None:
        """Try it again on the next batch: the network has been changed."""
        self._in_use = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Try it on the first batch."""
        if self._in_use is not None:
            return
        reduced = "16" in str(trainer.precision)
        self._in_use = may_use_channels_last(self._network(), self._given, reduced_precision=reduced)
        if self._in_use:
            assert isinstance(pl_module, BaseOneShotLightningModule)
            with undisturbed(pl_module, seed=0), trainer.precision_plugin.forward_context():
                self._in_use = use_channels_last(self._network(), *self._steps(batch))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the weights in the default memory format."""
        if self._in_use:
            use_contiguous(self._network())

"""One search over several processes: the same posterior and the same weights in each.

Every process draws the same alphas (one seed for all), sees its own share of both batches, and averages what it
computes with the others': losses, and the gradients of every single backward pass. So the gradient at each
Monte-Carlo draw is that of the combined batch before VAdam squares it. torch's own DistributedDataParallel reduces
only gradients that come through `backward` and only once an iteration; its reducer is therefore left out, and only
its start (parameters of the first process for all) is used.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Ranks:
    """The processes of a search; with a single one every method does nothing.

    Args:
        size: how many processes there are.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size

    @property
    def several(self) -> bool:
        """Whether there is more than this process."""
        return self.size > 1

    def first(self, value: Any) -> Any:
        """Return what the first process passed here (an object that can be pickled; tensors on the CPU)."""
        if not self.several:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def new_seed(self) -> int:
        """Return a seed from the first process's random numbers."""
        return int(self.first(int(torch.randint(2**62, ()).item())))

    def gather(self, value: Any) -> list[Any]:
        """Return what every process passed here, in their order."""
        if not self.several:
            return [value]
        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, value)
        return held

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over the processes, detached; NaN if it is NaN in one of them."""
        return self.averages([value.detach()])[0] if self.several else value.detach()

    def averages(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the mean of each tensor over the processes, in one message for each dtype."""
        if not self.several:
            return list(tensors)
        averaged: dict[int, Tensor] = {}
        order = sorted(range(len(tensors)), key=lambda k: str(tensors[k].dtype))
        for _, numbers in groupby(order, key=lambda k: tensors[k].dtype):
            group = list(numbers)
            flat = torch.cat([tensors[k].detach().reshape(-1) for k in group])
            dist.all_reduce(flat)
            flat /= self.size
            for k, part in zip(group, flat.split([tensors[k].numel() for k in group]), strict=True):
                averaged[k] = part.view_as(tensors[k])
        return [averaged[k] for k in range(len(tensors))]

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the mean over the processes in the place of each gradient; one that a process lacks counts as zero.

        Parameters that need no gradient are left alone: what their `grad` holds is of an earlier step.
        """
        if not self.several:
            return
        trained = [p for p in parameters if p.requires_grad]
        for p, mean in zip(trained, self.present_averages([p.grad for p in trained], trained), strict=True):
            p.grad = mean

    @torch.no_grad()
    def present_averages(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the mean of each tensor over the processes; one that a process lacks counts as zero there.

        Args:
            tensors: None where there is none; what no process has stays None.
            like: tensors of the same shapes.
        """
        if not self.several:
            return list(tensors)
        flags = torch.tensor([t is not None for t in tensors], dtype=torch.float32, device=_device(like))
        given = [torch.zeros_like(p) if t is None else t for t, p in zip(tensors, like, strict=True)]
        *means, anywhere = self.averages([*given, flags])
        if all(t is not None for t in tensors):  # ask the device only if not
            return list(means)
        return [mean if share else None for mean, share in zip(means, anywhere.tolist(), strict=True)]

    @torch.no_grad()
    def average_buffers(self, module: nn.Module) -> None:
        """Average floating buffers (statistics of batch-norm) over the processes, and take the first's other ones."""
        if not self.several:
            return
        buffers = list(module.buffers())
        floating = [b for b in buffers if b.is_floating_point()]
        for buffer, mean in zip(floating, self.averages(floating), strict=True):
            buffer.copy_(mean)
        for buffer in buffers:
            if not buffer.is_floating_point():
                dist.broadcast(buffer, src=0)

    def seed_apart(self) -> None:
        """Give every process but the first random numbers of its own, for its augmentation and dropout."""
        if not self.several:
            return
        seed = self.first(torch.initial_seed()) + _APART * dist.get_rank()
        if dist.get_rank():
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed % 2**63)


_APART = 1_000_003  # seeds of neighbouring processes are not those of neighbouring runs


def _device(parameters: Sequence[Tensor]) -> torch.device:
    return parameters[0].device if parameters else torch.device("cpu")


def wrap_anew(trainer: Any) -> None:
    """Give DistributedDataParallel the parameters that a network has now: it holds on to former ones and their shapes.

    Every process must do so.
    """
    if isinstance(trainer.strategy.model, DistributedDataParallel):
        trainer.strategy.model = trainer.lightning_module
        trainer.strategy.configure_ddp()


def without_reducer(model: Any) -> AbstractContextManager[None]:
    """Keep DistributedDataParallel from averaging gradients inside the block, where `model` is one."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

"""Time training steps on this machine, and find the largest network that gets enough of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn

from balenas_plugin.errors import OptionError
from balenas_plugin.machine import cores, free_memory, peak_memory

_UNTIMED, _LEAST_TIMED, _MOST_TIMED = 2, 3, 20  # steps
_SECONDS = 0.6  # of steps that are timed, at most: one more than that ends it
_FAR = 2  # times as long as what would do: exact or not, that is too long
_SHARE_OF_MEMORY = 0.5
_LOADING = 1.1  # of a step alone: batches are made, and Lightning takes its time

Size = TypeVar("Size")


class DoesNotFitError(OptionError):
    """A network takes more memory or latency than there may be."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What a training step takes.

    Args:
        seconds: of one.
        threads: of the CPU, with which that is.
        memory: bytes that it added to what the process, or the GPU, has held.
    """

    seconds: float
    threads: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class Fitting(Generic[Size]):
    """A size of network that fits.

    Args:
        size: as it was offered.
        epochs: that there is time for.
        timed: a step.
    """

    size: Size
    epochs: float
    timed: Timed


def device() -> torch.device:
    """Return what trains."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def time_training(
    network: nn.Module,
    *,
    batch_size: int,
    image_size: int,
    num_classes: int,
    enough: float = math.inf,
    threads: int | None = None,
) -> Timed:
    """Time steps of training a network on noise, with one thread and with all where there are several.

    Args:
        network: that is trained, and changed by it.
        batch_size: images of a step.
        image_size: side in pixels.
        num_classes: of the labels.
        enough: seconds; if the first steps take several times as long, these are all.
        threads: of the CPU; None: as many as are best.

    Raises:
        DoesNotFitError: a step takes more than half of the memory that is free.
    """
    place, before = device(), torch.get_num_threads()
    network = network.to(place).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    images = torch.randn(batch_size, 3, image_size, image_size, device=place)
    labels = torch.randint(num_classes, (batch_size,), device=place)

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        if place.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    held = _held(place)
    found: list[tuple[float, int]] = []
    try:
        tried = [threads] if threads else sorted({1, cores()}) if place.type == "cpu" else [before]
        for number in tried:
            torch.set_num_threads(number)
            found.append((_LOADING * statistics.median(_steps(step, enough)), number))
    finally:
        torch.set_num_threads(before)
    seconds, best = min(found)
    memory = max(0, _held(place) - held)
    free = torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else free_memory()
    if free and memory > _SHARE_OF_MEMORY * (free + memory):
        raise DoesNotFitError(
            f"a step of training takes {memory / 1e9:.1f} GB of memory, more than half of what is free"
        )
    return Timed(seconds=seconds, threads=best, memory=memory)


def _steps(step: Callable[[], float], enough: float) -> Iterator[float]:
    first = [step() for _ in range(_UNTIMED)]
    if min(first) > _FAR * enough:
        yield from first
        return
    spent, count = 0.0, 0
    while count < _LEAST_TIMED or (spent < _SECONDS and count < _MOST_TIMED):
        seconds = step()
        spent, count = spent + seconds, count + 1
        yield seconds


def _held(place: torch.device) -> int:
    return int(torch.cuda.max_memory_reserved(place)) if place.type == "cuda" else peak_memory()


def multiply_adds(network: nn.Module, *, image_size: int) -> int:
    """Return the multiply-adds of one image in convolutions and linear layers of a network that is not used any more.

    On the device "meta" nothing is computed. It is half of what `proxies.flops` counts, in a tenth of the time.
    """
    found = 0

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal found
        weight = cast(torch.Tensor, layer.weight)
        found += weight.numel() * output[0].numel() // len(weight)

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    image = torch.zeros(1, 3, image_size, image_size, device=next(network.parameters()).device)
    with torch.no_grad():
        network.eval()(image)
    for hook in hooks:
        hook.remove()
    return found


def largest_fitting(
    sizes: Sequence[Size],
    timed: Callable[[Size, float], Timed],
    *,
    seconds: float,
    steps_per_epoch: int,
    wanted_epochs: float,
) -> Fitting[Size]:
    """Return the largest size that there is time to train for so many epochs, or the smallest.

    Args:
        sizes: that may be taken, those with the least work first.
        timed: times a training step, exactly if it takes less than so many seconds; or raises DoesNotFitError.
        seconds: that there are.
        steps_per_epoch: of the training.
        wanted_epochs: that are enough.

    Raises:
        DoesNotFitError: not even the smallest does.
    """
    enough = seconds / (wanted_epochs * steps_per_epoch)
    fits, too_large = -1, len(sizes)
    found: dict[int, Timed] = {}
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        try:
            found[middle] = timed(sizes[middle], enough if middle else math.inf)
        except (DoesNotFitError, MemoryError, torch.OutOfMemoryError):
            if middle == 0:
                raise
            too_large = middle
            continue
        fits, too_large = (middle, too_large) if found[middle].seconds <= enough else (fits, middle)
    chosen = max(fits, 0)
    epochs = seconds / (found[chosen].seconds * steps_per_epoch)
    return Fitting(size=sizes[chosen], epochs=epochs, timed=found[chosen])

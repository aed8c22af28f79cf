"""How long a network takes on this machine, by PyTorch and by onnxruntime."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from balenas_plugin.costs.timing import median_seconds
from balenas_plugin.export.onnx_file import onnx_runner
from balenas_plugin.machine import processor


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Medians of the time that forward passes take.

    Attributes:
        milliseconds: name of a form of the network -> of a batch.
        batch_size: images in a batch.
        threads: of each form.
        repeats: of which each is the median.
        machine: name of it.
        processor: that has computed.
    """

    milliseconds: dict[str, float]
    batch_size: int
    threads: int
    repeats: int
    machine: str
    processor: str


def measure_latency(
    forms: Mapping[str, nn.Module | bytes], example: Tensor, *, threads: int = 1, repeats: int = 50
) -> Latency:
    """Return how long each form of a network takes on this machine's CPU: medians of repeats, all forms in turn.

    Args:
        forms: name -> a network, run by PyTorch, or the contents of an ONNX file, run by onnxruntime.
        example: a batch of inputs, shape (N, ...); one image as a rule.
        threads: that each form may use.
        repeats: of every form, after a warm-up.

    Raises:
        MissingDependencyError: there is an ONNX file, and onnxruntime is not installed.
    """
    batch = example.detach().cpu()
    runs: dict[str, Callable[[], object]] = {}
    with torch_threads(threads), torch.inference_mode():
        for name, form in forms.items():
            if isinstance(form, bytes):
                runs[name] = partial(onnx_runner(form, threads=threads), batch.numpy())
            else:
                runs[name] = partial(copy.deepcopy(form).cpu().eval(), batch)
        seconds = median_seconds(runs, repeats=repeats)
    return Latency(
        milliseconds={name: 1e3 * value for name, value in seconds.items()},
        batch_size=len(batch),
        threads=threads,
        repeats=repeats,
        machine=platform.node(),
        processor=processor(),
    )


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)

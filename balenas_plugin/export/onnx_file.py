"""Write a network as an ONNX file."""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from balenas_plugin.errors import MissingDependencyError, SpaceError
from balenas_plugin.files import write_atomically

TOLERANCE = 1e-4
"""Largest difference of an output, absolute or relative."""

_BATCHES = (1, 3)
_INPUT, _OUTPUT = "images", "logits"


def write_onnx(model: nn.Module, path: Path, *, example: Tensor) -> Path:
    """Write `model`, in evaluation mode, as one ONNX file with a batch dimension of any size.

    The file's input is called ``images``, its output ``logits``. It holds no paths or source lines of this machine.
    Before it is written it is checked against the ONNX specification, and its outputs for batches of 1 and 3 are
    compared with those of `model`: by onnxruntime where that is installed, else by onnx's own evaluator, which is slow.

    Args:
        model: a network that maps one tensor to one tensor; it is not changed.
        path: the file; folders are made, a file that is there is replaced.
        example: an input, shape (N, ...).

    Returns:
        `path`.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
        SpaceError: the network cannot be exported, or the exported one differs from it.
        StorageError: the file could not be written.
    """
    onnx = _require("onnx")
    _require("onnxscript")
    batch = _varied(example.detach().cpu())
    try:
        with _quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            network = copy.deepcopy(model).cpu().eval()
            contents = _export(onnx, network, batch)
            run = _runner(contents)
            for size in _BATCHES:
                _compare(network(batch[:size]), run(batch[:size].numpy()), size)
    except _DifferenceError as error:
        raise SpaceError(f"{type(model).__name__} cannot be written as ONNX: {error}. {_CURE}") from error
    except Exception as error:  # torch.export, the converter and the user's code raise what they like
        reason = next(iter(str(error).strip().splitlines()), "")
        raise SpaceError(
            f"{type(model).__name__} cannot be written as ONNX: {type(error).__name__}: {reason}. {_CURE}"
        ) from error
    write_atomically(path, lambda file: file.write(contents))
    return path


_CURE = (
    "The network must map one tensor of shape (N, ...) to one tensor, for any N and without a condition on the data; "
    "change the part that does not"
)


class _DifferenceError(Exception):
    """The exported network computes something else; the message says where."""


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingDependencyError(
            f"writing ONNX needs the package {package}, which is not installed: pip install 'balenas-plugin[onnx]'"
        ) from error


def _varied(example: Tensor) -> Tensor:
    """Return a batch of three different entries made of those of `example`."""
    return torch.cat([example, example.flip(-1), example.roll(1, -1)])[: max(_BATCHES)].contiguous()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says about its own work; errors still come."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _export(onnx: Any, network: nn.Module, batch: Tensor) -> bytes:
    """Return the contents of the file."""
    program = torch.onnx.export(
        network,
        (batch,),
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _strip(message: Any) -> None:
    """Delete, at every depth, the notes for debugging: they hold source lines and paths of this machine."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in value if isinstance(value, Sequence) else [value]:
                _strip(inner)


def _runner(contents: bytes) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Return a function that computes the outputs of the file."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError:
        evaluator: Any = importlib.import_module("onnx.reference").ReferenceEvaluator(contents)
    else:
        evaluator = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
    return lambda batch: np.asarray(evaluator.run([_OUTPUT], {_INPUT: batch})[0])


def _compare(expected: Tensor, found: npt.NDArray[Any], size: int) -> None:
    if tuple(expected.shape) != found.shape:
        raise _DifferenceError(
            f"for a batch of {size} its output has shape {tuple(expected.shape)}, the exported one {found.shape}"
        )
    if not np.allclose(expected.numpy(), found, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
        difference = float(np.abs(expected.numpy() - found).max())
        raise _DifferenceError(f"for a batch of {size} its outputs differ from the exported ones by {difference:.3g}")

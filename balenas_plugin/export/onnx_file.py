"""Write a network as an ONNX file."""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from balenas_plugin.data.network_task import NetworkTask
from balenas_plugin.errors import MissingDependencyError, SpaceError, first_line
from balenas_plugin.files import write_atomically
from balenas_plugin.restoring import random_numbers_restored

TOLERANCE = 1e-4
"""Largest difference of an output, absolute or relative."""

_BATCHES = (1, 3)

Array = npt.NDArray[Any]

INPUT, OUTPUT = "images", "logits"
"""Names of the input of a file, where its task says no other, and of the output."""


def write_onnx(model: nn.Module, path: Path, *, example: Tensor, task: NetworkTask | None = None) -> Path:
    """Write `model`, in evaluation mode, as one ONNX file with a batch dimension of any size.

    The file's input is called ``images`` (``words`` for a text), its output ``logits``. It holds no paths or source
    lines of this machine. Before it is written it is checked against the ONNX specification, and its outputs for
    batches of 1 and 3 are compared with those of `model`: by onnxruntime where that is installed, else by onnx's own
    evaluator, which is slow.

    Args:
        model: a network that maps one tensor to one tensor; it is not changed.
        path: the file; folders are made, a file that is there is replaced.
        example: an input, shape (N, ...).
        task: that it was trained for; class names and preprocessing become the file's metadata (metadata_props).

    Returns:
        `path`.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
        SpaceError: the network cannot be exported, or the exported one differs from it.
        StorageError: the file could not be written.
    """
    contents = onnx_contents(model, example=example, task=task)
    write_atomically(path, lambda file: file.write(contents))
    return path


def onnx_contents(model: nn.Module, *, example: Tensor, task: NetworkTask | None = None) -> bytes:
    """Return the contents of the file that `write_onnx` writes, checked and compared as there.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
        SpaceError: the network cannot be exported, or the exported one differs from it.
    """
    onnx = require_onnx()
    batch = _varied(example.detach().cpu())
    try:
        with quiet(), torch.no_grad(), random_numbers_restored():
            network = copy.deepcopy(model).cpu().eval()
            expected = {size: _outputs(network, batch[:size]) for size in _BATCHES}
            contents = _export(onnx, network, batch, task)
            run = _evaluator(contents)
            for size, outputs in expected.items():
                _compare(outputs, run(batch[:size].numpy()), size)
    except Exception as error:  # torch.export, the converter and the user's code raise what they like
        raise SpaceError(f"{type(model).__name__} cannot be written as ONNX: {_reason(error)}. {_CURE}") from error
    return contents


def onnx_to_time(model: nn.Module, *, example: Tensor) -> bytes:
    """Return an ONNX file of `model` for inputs of the shape of `example` alone, unchecked.

    It is made by tracing, which takes a tenth of the time of `onnx_contents`: enough to measure a latency by.

    Raises:
        SpaceError: the network cannot be traced.
    """
    buffer = BytesIO()
    try:
        with quiet(), torch.no_grad(), random_numbers_restored():
            network = copy.deepcopy(model).cpu().eval()
            torch.onnx.export(
                network, (example.cpu(),), cast(Any, buffer), input_names=[INPUT], output_names=[OUTPUT], dynamo=False
            )
    except Exception as error:  # the tracer and the user's code raise what they like
        raise SpaceError(f"{type(model).__name__} cannot be written as ONNX: {_reason(error)}") from error
    return buffer.getvalue()


_CURE = (
    "The network must map a tensor of shape (N, ...) to one of shape (N, ...), for any N, always the same and without "
    "a condition on the data; change the part that does not"
)


class _UnfitError(Exception):
    """The network, or what was exported of it, does not do what it must; the message says what."""


def _reason(error: BaseException) -> str:
    """Return what went wrong first: the exporter wraps the error that explains in others that do not."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) if isinstance(error, _UnfitError) else first_line(error)).rstrip(".")


def require_onnx() -> Any:
    """Return the package onnx.

    Raises:
        MissingDependencyError: it or onnxscript is not installed.
    """
    _require("onnxscript", "writing ONNX")
    return _require("onnx", "writing ONNX")


def require_onnxruntime() -> Any:
    """Return the package onnxruntime.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return _require("onnxruntime", "running ONNX files")


def _require(package: str, what: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} needs the package {package}, which is not installed: pip install '.[onnx]' in a checkout of "
            "this project"
        ) from error


def _varied(example: Tensor) -> Tensor:
    """Return a batch of three different entries made of those of `example`."""
    return torch.cat([example, example.flip(-1), example.roll(1, -1)])[: max(_BATCHES)].contiguous()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporter says and prints about its own work; errors still come."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _outputs(network: nn.Module, batch: Tensor) -> Tensor:
    outputs = network(batch)
    if not isinstance(outputs, Tensor):
        raise _UnfitError(f"it returns a {type(outputs).__name__}")
    if len(batch) != len(outputs):
        raise _UnfitError(f"for a batch of {len(batch)} its output has shape {tuple(outputs.shape)}")
    if not torch.allclose(outputs, network(batch), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
        raise _UnfitError("its outputs are random (as of noise), so those of a file could not be compared with them")
    return outputs


def _export(onnx: Any, network: nn.Module, batch: Tensor, task: NetworkTask | None) -> bytes:
    """Return the contents of the file."""
    program = torch.onnx.export(
        network,
        (batch,),
        input_names=[INPUT if task is None else task.input_name],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    onnx.helper.set_model_props(proto, {} if task is None else task.metadata())
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


def onnx_runner(contents: bytes, *, threads: int | None = None) -> Callable[[Array], Array]:
    """Return a function that computes the outputs of a file by onnxruntime, on the CPU.

    Args:
        contents: of the file.
        threads: that it may use; None: as many as it takes.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    onnxruntime = require_onnxruntime()
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])
    return _outputs_of(session, session.get_inputs()[0].name)


def _evaluator(contents: bytes) -> Callable[[Array], Array]:
    """Return the same by what is installed: onnxruntime, or onnx's own evaluator."""
    try:
        return onnx_runner(contents)
    except MissingDependencyError:
        evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(contents)
        return _outputs_of(evaluator, evaluator.input_names[0])


def _outputs_of(session: Any, name: str) -> Callable[[Array], Array]:
    return lambda batch: np.asarray(session.run([OUTPUT], {name: batch})[0])


def _compare(expected: Tensor, found: Array, size: int) -> None:
    if tuple(expected.shape) != found.shape:
        raise _UnfitError(
            f"for a batch of {size} its output has shape {tuple(expected.shape)}, the exported one {found.shape}"
        )
    if not np.allclose(expected.numpy(), found, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
        difference = float(np.abs(expected.numpy() - found).max())
        raise _UnfitError(f"for a batch of {size} its outputs differ from the exported ones by {difference:.3g}")

"""Static quantisation of an ONNX file: weights and activations as 8-bit integers, by onnxruntime."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from balenas_plugin.errors import SpaceError, first_line
from balenas_plugin.export.onnx_file import INPUT, quiet, require_onnx, require_onnxruntime

_KEPT = ("BatchNormalization",)
"""Operators that stay in floating point. Most batch-norms are part of a convolution by then."""


def quantised(contents: bytes, batches: Iterable[npt.NDArray[np.float32]]) -> bytes:
    """Return an ONNX file with 8-bit weights, scaled by channel, and activations, scaled by their largest values.

    Metadata and names stay. The operators are quantised as pairs of QuantizeLinear and DequantizeLinear, which every
    runtime knows.

    Args:
        contents: of a file that `write_onnx` made.
        batches: inputs that are typical, shape (N, ...): activations are scaled by what these give.

    Raises:
        MissingDependencyError: onnx or onnxruntime is not installed.
        SpaceError: onnxruntime cannot quantise it.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference"; as `onnxruntime.quantization` does it.
    """
    onnx = require_onnx()
    require_onnxruntime()
    quantization = importlib.import_module("onnxruntime.quantization")
    model = onnx.load_from_string(contents)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
    with tempfile.TemporaryDirectory() as folder, quiet():
        output = Path(folder, "quantised.onnx")
        try:
            quantization.quantize_static(
                model,
                output,
                _reader(quantization, batches),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=[node.name for node in model.graph.node if node.op_type in _KEPT],
            )
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise SpaceError(f"onnxruntime cannot quantise the network: {first_line(error)}. Leave int8 out") from error
        found = onnx.load(output)
    onnx.helper.set_model_props(found, metadata)
    return bytes(found.SerializeToString(deterministic=True))


def _reader(quantization: Any, batches: Iterable[npt.NDArray[np.float32]]) -> Any:
    """Return batches as onnxruntime asks for them: one after the other, None at the end."""
    waiting = iter(batches)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # whose class is Any
        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            batch = next(waiting, None)
            return None if batch is None else {INPUT: batch}

    return Reader()

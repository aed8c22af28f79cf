"""Nested states as named tensors, since NASLib's checkpoints hold nothing else; all that is no tensor is JSON in bytes.

The bytes are cut into pieces of one shape: a tensor that has another shape than the model's own is left out by NASLib
when it loads a checkpoint, and one more of the same shape is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.errors import FileFormatError

_PIECE = 1024
_DOCUMENT, _TENSOR, _MAPPING = "document.", "tensor", "mapping"


def packed(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a state as name -> tensor.

    Args:
        state: mappings, sequences, tensors and values of JSON in each other; sequences come back as lists.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_described(state, "", tensors)).encode()
    text += b" " * (-len(text) % _PIECE)
    pieces = torch.tensor(list(text), dtype=torch.uint8).split(_PIECE)
    return {**{f"{_DOCUMENT}{i}": piece for i, piece in enumerate(pieces)}, **tensors}


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the state that `packed` was given; an empty one if there is none.

    Raises:
        FileFormatError: a tensor is missing.
    """
    pieces = [tensors[f"{_DOCUMENT}{i}"] for i in range(len(tensors)) if f"{_DOCUMENT}{i}" in tensors]
    if not pieces:
        return {}
    found: dict[str, Any] = _restored(json.loads(bytes(torch.cat(pieces).tolist())), tensors)
    return found


def _described(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach()
        return {_TENSOR: name}
    if isinstance(value, Mapping):  # whose keys may be numbers
        inside = ((key, _described(entry, f"{name}.{key}" if name else key, tensors)) for key, entry in value.items())
        return {_MAPPING: list(inside)}
    if isinstance(value, list | tuple):
        return [_described(entry, f"{name}.{i}", tensors) for i, entry in enumerate(value)]
    return value


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restored(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    if _MAPPING in value:
        return {key: _restored(entry, tensors) for key, entry in value[_MAPPING]}
    if value[_TENSOR] not in tensors:
        raise FileFormatError(
            f"the checkpoint lacks {value[_TENSOR]}, or has it in another shape than this search space: resume in the "
            "search space with which it was written"
        )
    return tensors[value[_TENSOR]]

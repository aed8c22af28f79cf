"""What files of a network say of its inputs and its outputs."""

from __future__ import annotations

from typing import Any, Protocol


class NetworkTask(Protocol):
    """What a network was trained for: `ImageTask` and `TextTask`."""

    @property
    def input_name(self) -> str:
        """What the input of an ONNX file is called."""

    def to_dict(self) -> dict[str, Any]:
        """Return the task as plain values for JSON."""

    def metadata(self) -> dict[str, str]:
        """Return name -> text, in JSON where it is no text, for files whose metadata are texts."""

    def source(self) -> str:
        """Return Python source that makes inputs; `torch` and `Any` are imported before it."""

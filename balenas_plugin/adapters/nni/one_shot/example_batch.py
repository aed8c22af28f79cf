"""The batch that proxies look at: the first of the architecture's half, kept through a resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from balenas_plugin.data.text import Excerpt
from balenas_plugin.errors import EvaluatorError


class ExampleBatch:
    """A search's first batch of validation data, if somebody needs it."""

    KEY = "balenas_example"
    """Of the batch in a checkpoint."""

    def __init__(self) -> None:
        self.batch: Any = None
        self.on_first: Callable[[], None] | None = None
        """Called when the batch is there; None where nobody needs it."""

    def offer(self, batch: Any) -> None:
        """Keep a batch, if it is the first and somebody needs it."""
        if self.on_first is not None and self.batch is None:
            self.batch = batch
            self.on_first()

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return (inputs, labels), on the CPU.

        Raises:
            EvaluatorError: the batch is something else.
        """
        match self.batch:
            case (Tensor() as inputs, Tensor() as labels) | Excerpt(words=inputs, targets=labels):
                return inputs.cpu(), labels.cpu()
        raise EvaluatorError(
            "a selection ranks networks on batches of two tensors, (inputs, labels), and the validation loader gives "
            f"{_described(self.batch)}. Search without `selection`: architectures are then listed by probability"
        )

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the batch into a checkpoint, so that a resumed search ranks on the same one."""
        if self.batch is not None:
            checkpoint[self.KEY] = list(self.pair())

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take the batch back."""
        self.batch = checkpoint.get(self.KEY)


def _described(batch: Any) -> str:
    name = type(batch).__name__
    parts = [str(key) for key in batch] if isinstance(batch, dict) else []
    if isinstance(batch, list | tuple):
        parts = [type(part).__name__ for part in batch]
    return f"{name} ({', '.join(parts)})" if parts else name

"""Look at data loaders before a search starts."""

from __future__ import annotations

from typing import Any

from balenas_plugin.errors import EvaluatorError


def number_of_examples(loader: Any) -> int | None:
    """Return how many examples one pass over `loader` sees, or None if it cannot tell."""
    for holder in (getattr(loader, "sampler", None), getattr(loader, "dataset", None)):
        try:
            return len(holder)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            continue
    return None


def require_a_batch(loader: Any, which: str) -> None:
    """Raise unless `loader` can give one whole batch.

    Raises:
        EvaluatorError: the set has fewer examples than a batch.
    """
    examples, batch_size = number_of_examples(loader), getattr(loader, "batch_size", None)
    if examples is not None and examples < (batch_size or 1):
        raise EvaluatorError(
            f"the {which} set has {examples} examples, fewer than one batch of {batch_size}: "
            "lower the batch size or give more data"
        )

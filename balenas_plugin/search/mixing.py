"""What the mixed operations of a supernet ask for their weights: those of the current pass, else the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.distributions import Draw
from balenas_plugin.mixed_ops.drawn_path import Others


class MixingWeights(nn.Module):
    """Stands in the place of the softmax in every mixed module of a supernet; one object for all of them.

    Mixed modules call it with a label's parameter. Nothing is written into the parameter to draw.

    Args:
        mean_weights: parameter (K,) -> weights (K,), where no draw is used.
    """

    def __init__(self, mean_weights: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._mean_weights = mean_weights
        self._used: dict[Tensor, Tensor] = {}
        self._chosen: dict[Tensor, int] = {}
        self._kept: dict[Tensor, Tensor] = {}
        self.others: Others | None = None
        """How candidates that the current draw does not compute take part, if it says so (see `drawn_path`)."""

    def forward(self, parameter: Tensor) -> Tensor:
        """Return the weights of a label, shape (K,)."""
        used = self._used.get(parameter)
        if used is not None:
            return used
        weights, kept = self._mean_weights(parameter), self._kept.get(parameter)
        if kept is None:
            return weights
        left = torch.where(kept, weights, 0)
        return left / left.sum()

    def keep(self, masks: Mapping[Tensor, Tensor]) -> None:
        """Give no weight to choices that were dropped: parameter -> which of its choices are left, shape (K,)."""
        self._kept = dict(masks)

    def chosen(self, parameter: Tensor) -> int | None:
        """Return the only candidate that the current draw computes; None if all are."""
        return self._chosen.get(parameter) if self._chosen else None

    @contextmanager
    def using(self, draw: Draw, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        """Let all mixed modules use the weights of a draw inside the block."""
        before = self._used, self._chosen, self.others
        self._used = {parameters[label]: weights for label, weights in draw.weights.items()}
        self._chosen = {parameters[label]: index for label, index in draw.chosen.items()}
        self.others = draw.others
        try:
            yield
        finally:
            self._used, self._chosen, self.others = before

    @property
    def draws_paths(self) -> bool:
        """Whether the current draw leaves candidates out."""
        return bool(self._chosen)

    def used_tensors(self) -> list[Tensor]:
        """Return the weights of the current draw; none outside of one."""
        return list(self._used.values())

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the draw behind: a supernet that was copied or pickled mixes with the mean."""
        return MixingWeights, (self._mean_weights,), {"_kept": self._kept}


def mixing_of(model: nn.Module) -> MixingWeights:
    """Return what the mixed modules of a supernet ask; a fresh one if none of them asks."""
    found = (module for module in model.modules() if isinstance(module, MixingWeights))
    return next(found, None) or MixingWeights(lambda parameter: parameter.softmax(-1))

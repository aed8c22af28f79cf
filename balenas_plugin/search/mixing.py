"""What the mixed operations of a supernet ask for their weights: those of the current pass, else the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.distributions import Draw
from balenas_plugin.mixed_ops import MixedOp
from balenas_plugin.mixed_ops.drawn_path import Others


class MixingWeights(nn.Module):
    """Stands in the place of the softmax in every mixed module of a supernet; one object for all of them.

    Mixed modules call it with a label's parameter. Nothing is written into the parameter to draw.

    Args:
        mean_weights: parameter (K,) -> weights (K,), where no draw is used.
        mixed_op: how edges compute their candidates; None: all of them in full.
        recompute: whether drawn candidates are computed once more in the backward pass, in the place of keeping them.
    """

    def __init__(
        self, mean_weights: Callable[[Tensor], Tensor], mixed_op: MixedOp | None = None, *, recompute: bool = True
    ) -> None:
        super().__init__()
        self.mixed_op, self.recompute = mixed_op, recompute
        self._mean_weights = mean_weights
        self._used: dict[Tensor, Tensor] = {}
        self._chosen: dict[Tensor, int] = {}
        self._kept: dict[Tensor, Sequence[int]] = {}
        self._others: dict[Tensor, Others | Sequence[int]] = {}
        self.dropped_are_zeros = False
        """Whether zeros stand in the place of candidates that were dropped for good, so that none need be left out."""
        self._left: dict[Tensor, tuple[Tensor, Sequence[int]]] = {}

    def forward(self, parameter: Tensor) -> Tensor:
        """Return the weights of a label, shape (K,)."""
        used = self._used.get(parameter)
        if used is not None:
            return used
        weights = self._mean_weights(parameter)
        if parameter not in self._left:
            return weights
        left = torch.where(self._left[parameter][0], weights, 0)
        return left / left.sum()

    def leave(self, left: Mapping[Tensor, tuple[Tensor, Sequence[int]]]) -> None:
        """Give no weight to choices that were dropped for good.

        Args:
            left: parameter -> which choices are left, as a mask of shape (K,) and as indices.
        """
        self._left = dict(left)

    def chosen(self, parameter: Tensor) -> int | None:
        """Return the only candidate that the current draw computes; None if all are."""
        return self._chosen.get(parameter) if self._chosen else None

    def kept(self, parameter: Tensor) -> Sequence[int] | None:
        """Return the candidates that the current draw computes where some were dropped; None if there are all."""
        return self._kept.get(parameter) if self._kept else None

    def others(self, parameter: Tensor) -> Others | Sequence[int] | None:
        """Return how candidates that the current draw does not compute take part, if it says so (see `drawn_path`)."""
        return self._others.get(parameter)

    @contextmanager
    def using(
        self, draw: Draw, parameters: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]] | None = None
    ) -> Iterator[None]:
        """Let all mixed modules use the weights of a draw inside the block.

        Args:
            draw: of the distribution.
            parameters: label -> parameter by which modules ask.
            kept: label -> candidates that have a part, of labels where not all have (`Distribution.kept`).
        """
        before = self._used, self._chosen, self._kept, self._others
        self._used = {parameters[label]: weights for label, weights in draw.weights.items()}
        self._chosen = {parameters[label]: index for label, index in draw.chosen.items()}
        given = {parameters[label]: indices for label, indices in (kept or {}).items()}
        zeros = {p: indices for p, (_, indices) in self._left.items()} if self.dropped_are_zeros else {}
        self._kept = {p: indices for p, indices in given.items() if zeros.get(p) != indices}
        self._others = {parameters[label]: others for label, others in draw.others.items()}
        try:
            yield
        finally:
            self._used, self._chosen, self._kept, self._others = before

    @property
    def draws_paths(self) -> bool:
        """Whether the current draw leaves candidates out."""
        return bool(self._chosen or self._kept)

    def used_tensors(self) -> list[Tensor]:
        """Return the weights of the current draw; none outside of one."""
        return list(self._used.values())

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the draw behind: a supernet that was copied or pickled mixes with the mean."""
        return MixingWeights, (self._mean_weights, self.mixed_op), {"_left": self._left, "recompute": self.recompute}


def mixing_of(model: nn.Module) -> MixingWeights:
    """Return what the mixed modules of a supernet ask; a fresh one if none of them asks."""
    found = (module for module in model.modules() if isinstance(module, MixingWeights))
    return next(found, None) or MixingWeights(lambda parameter: parameter.softmax(-1))

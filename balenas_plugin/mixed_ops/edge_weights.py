"""Edge normalisation: learned weights of the edges to a node, their softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class EdgeWeights:
    """Learns the weights of the edges to every node, with Adam and coupled decay, as logits of operations are.

    Args:
        parameters: node -> logits of its edges, shape (number of edges,).
        lr, betas, weight_decay: of Adam.

    Source: Xu et al. 2020 (PC-DARTS), Section 3.3.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        lr: float,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 1e-3,
    ) -> None:
        self.parameters = list(parameters.values())
        self._optimizer = torch.optim.Adam(self.parameters, lr=lr, betas=betas, weight_decay=weight_decay)

    def start(self) -> None:
        """Put the parameters where a new search begins: they are there."""

    def step(self, gradients: Sequence[Sequence[Tensor | None]]) -> None:
        """Follow the mean gradient of several draws; parameters without any stay.

        Args:
            gradients: of each draw, one for each of `parameters`.
        """
        for parameter, of_draws in zip(self.parameters, zip(*gradients, strict=True), strict=True):
            found = [g for g in of_draws if g is not None]
            parameter.grad = torch.stack(found).sum(0) / len(gradients) if found else None
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer; the parameters are saved by their owner."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        self._optimizer.load_state_dict(dict(state))

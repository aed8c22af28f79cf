"""What every mixed operation is: how an edge is built of its candidates, and computes with their mixing weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn


class MixedOp(ABC):
    """Says how edges compute.

    The candidates are built anew once (`build`), before a search. In a pass an edge's input enters (`enter`), its
    candidates are mixed (`mix`), and what the edges to a node have made leaves them together (`leave`).

    A member defines `build`.
    """

    name: ClassVar[str]
    """By which options and files call it."""

    source: ClassVar[str]
    """Author, year."""

    adds_up: ClassVar[bool] = True
    """Whether `mix` adds the results of the candidates up, so that they can be computed in any other way."""

    edge_normalization: bool = False
    """Whether the edges to a node have learned weights of their own (PC-DARTS)."""

    @abstractmethod
    def build(self, candidates: Mapping[str, nn.Module], *, called: str) -> dict[str, nn.Module]:
        """Return what stands in the place of the candidates of an edge; each is an operation of its own, too.

        Args:
            candidates: name -> operation, as the space defines it.
            called: what messages call the edge.

        Raises:
            SpaceError: an operation cannot be built so.
        """

    def enter(self, x: Tensor) -> Tensor:
        """Return what the candidates see of the input of their edge: all of it by default."""
        return x

    def mix(self, x: Tensor, candidates: Sequence[nn.Module], weights: Tensor) -> Tensor:
        """Return the sum of the candidates, each times its mixing weight.

        Args:
            x: what has entered.
            candidates: as `build` returned them.
            weights: shape (K,); one behind those of the candidates is that of none of them.
        """
        results = [candidate(x) for candidate in candidates]
        total: Any = sum(weight * result for weight, result in zip(weights[: len(results)], results, strict=True))
        return total  # type: ignore[no-any-return]  # of a tensor

    def leave(self, mixed: Tensor, sources: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """Return a node of what its edges have made: their sum by default.

        Args:
            mixed: the sum over the edges, each times its weight.
            sources: the input of each edge, and the weight of the edge, a number; None is 1.
        """
        return mixed

    def edge(self, x: Tensor, candidates: Sequence[nn.Module], weights: Tensor) -> Tensor:
        """Return what one edge makes of its input."""
        return self.leave(self.mix(self.enter(x), candidates, weights), [(x, None)])

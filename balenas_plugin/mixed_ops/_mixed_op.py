"""What every mixed operation is: how an edge is built of its candidates, and computes with their mixing weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

Source = tuple[Tensor, Tensor | None]
"""What an edge's input leaves for `leave`, and the weight of the edge, a number; None is 1."""


class MixedOp(ABC):
    """Says how edges compute.

    The candidates of an edge are built anew once (`build`), before a search. In a pass an edge's input enters
    (`enter`), the candidates are mixed (`mix`), and what the edges to a node have made leaves them together (`leave`).

    A member defines `build`.
    """

    name: ClassVar[str]
    """By which options and files call it."""

    source: ClassVar[str]
    """Author, year."""

    adds_up: ClassVar[bool] = True
    """Whether `mix` is the sum of the candidates times their weights, so that it can be computed in any other way."""

    parts: tuple[int, bool] | None = None
    """Into how many parts the channels of a node are divided, of which the candidates see the first and the others are
    added up, and whether they are shuffled then, for a cell that is computed at once; None: it cannot be."""

    edge_normalization: bool = False
    """Whether the edges to a node have learned weights of their own (PC-DARTS)."""

    @abstractmethod
    def build(self, candidates: Mapping[str, nn.Module], *, called: str) -> dict[str, nn.Module] | None:
        """Return what stands in the place of the candidates of an edge; None leaves the edge as it is.

        Args:
            candidates: name -> operation, as the space defines it.
            called: what messages call the edge.

        Raises:
            SpaceError: an operation cannot be built so.
        """

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the candidates see of the input of their edges, and what `leave` does: all of it by default."""
        return x, x

    def mix(self, x: Tensor, candidates: Sequence[nn.Module], weights: Tensor) -> Tensor:
        """Return the sum of the candidates, each times its mixing weight.

        Args:
            x: what has entered.
            candidates: as `build` returned them.
            weights: shape (K,); one behind those of the candidates is that of none of them.
        """
        terms: list[Tensor] = [weight * each(x) for weight, each in zip(weights, candidates, strict=False)]
        return sum(terms[1:], start=terms[0])

    def leave(self, mixed: Tensor, sources: Sequence[Source]) -> Tensor:
        """Return a node of what its edges have made: their sum by default.

        Args:
            mixed: the sum over the edges of what they mixed, each times its weight.
            sources: of each edge.
        """
        return mixed

    def edge(self, x: Tensor, candidates: Sequence[nn.Module], weights: Tensor) -> Tensor:
        """Return what one edge makes of its input."""
        seen, left = self.enter(x)
        return self.leave(self.mix(seen, candidates, weights), [(left, None)])


class InFull(MixedOp):
    """Compute all candidates as they are."""

    name = "full"
    source = "Liu et al. 2019"
    parts = 1, False

    def build(self, candidates: Mapping[str, nn.Module], *, called: str) -> None:
        """Leave the edge as it is."""


IN_FULL = InFull()


class Alone(nn.Module):
    """A candidate as an edge of its own, as in a network of one architecture.

    Args:
        mixed_op: how edges compute.
        operation: a candidate that it has built.
        weight: of the edge.
    """

    def __init__(self, mixed_op: MixedOp, operation: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        self.mixed_op, self.operation, self.weight = mixed_op, operation, weight

    def forward(self, x: Tensor) -> Tensor:
        """Return what the candidate makes of the input of its edge."""
        seen, left = self.mixed_op.enter(x)
        made = self.mixed_op.leave(self.operation(seen), [(left, None)])
        return made if self.weight == 1 else self.weight * made

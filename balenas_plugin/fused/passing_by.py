"""What passes the branches of a cell by, between its nodes, with its gradients: partial channels, for `cell`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from balenas_plugin.mixed_ops.passing import add_up, joined, node_of, parted


class Passing:
    """One pass through a cell whose branches see the first of k parts of a node's channels; all of them if k is 1.

    Args:
        parts: k, and whether the channels of every node are shuffled.
        scales: of what passes the edges to each node by, in the order of the nodes, then of the sources; none: all 1.
    """

    def __init__(self, parts: tuple[int, bool], scales: Sequence[Tensor]) -> None:
        (self._k, self._shuffle), self._scales = parts, scales
        self.rests: list[Tensor] = []
        """What has passed each node by, of those that were entered."""
        self.of_scales: list[Tensor | None] = [None] * len(scales)
        self._of_nodes: dict[int, Tensor] = {}

    def __bool__(self) -> bool:
        return self._k > 1

    def enter(self, node: Tensor) -> Tensor:
        """Return what the branches see of a node, in channels-last memory; the rest is kept in `rests`."""
        if not self:
            return node
        seen, rest = node.split([node.shape[1] // self._k, node.shape[1] - node.shape[1] // self._k], 1)
        self.rests.append(rest)
        found: Tensor = seen.contiguous(memory_format=torch.channels_last)
        return found

    def nodes(self, x: Tensor, mixed: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the input and the nodes behind it, each after the one before was entered.

        Args:
            x: the input.
            mixed: what was mixed into each node.
        """
        yield x
        yield from map(self.node, mixed)

    def node(self, mixed: Tensor) -> Tensor:
        """Return the next node, of what was mixed into it."""
        return node_of(mixed, self.rests, self._to(len(self.rests)), k=self._k, shuffle=self._shuffle)

    def differentiable(self, mixed: Tensor) -> Tensor:
        """Return the next node, with a graph."""
        if not self:
            return mixed
        return joined(mixed, self.rests, self._to(len(self.rests)) or None, k=self._k, shuffle=self._shuffle)

    def gradient(self, number: int, gradient: Tensor) -> Tensor:
        """Return the gradient of what was mixed into a node; of the cell's input, its own.

        Args:
            number: of the node; later ones came before.
            gradient: of the last node; of others, and of the input, of what the branches saw of it.
        """
        if number in self._of_nodes:
            whole = self._of_nodes.pop(number)
            whole[:, : gradient.shape[1]] = gradient
            if number == 0:
                return whole
            gradient = whole
        of_mixed, of_rest = parted(gradient, k=self._k, shuffle=self._shuffle, channels_last=True)
        for source, scale in enumerate(self._to(number) or [None] * number):
            begun = source in self._of_nodes
            total = self._of_nodes[source] if begun else gradient.new_empty(gradient.shape)
            self._of_nodes[source] = total
            add_up(total[:, of_mixed.shape[1] :], [of_rest], [] if scale is None else [scale], begun=begun)
            if scale is not None and self.rests:
                self.of_scales[self._first(number) + source] = (of_rest * self.rests[source]).sum()
        return of_mixed

    def _to(self, number: int) -> Sequence[Tensor]:
        """Return the scales of the edges to a node."""
        first = self._first(number)
        return self._scales[first : first + number]

    @staticmethod
    def _first(number: int) -> int:
        return number * (number - 1) // 2

"""PC-DARTS: the operations of an edge see a part of the channels, the others pass by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from balenas_plugin.errors import SpaceError
from balenas_plugin.mixed_ops._mixed_op import MixedOp, Source
from balenas_plugin.mixed_ops.channels import channel_shuffle, keeps_width, narrowed, passed_by, width_of
from balenas_plugin.options import PositiveInt, checked


class PartialChannels(MixedOp):
    """Mix the first C/k channels of an edge's input; the others pass by, and a channel shuffle brings others to the
    front.

    The operations are built with C/k channels. Where they halve the resolution, the channels that pass by are
    max-pooled. Edges whose operations change the number of channels have none that could pass by, and stay whole.

    Args:
        k: into how many parts the channels are divided; it divides the number of channels of every edge.
        edge_normalization: weigh the edges to a node by the softmax of learned parameters.
        shuffle: the channels of every node; without it, the same ones are mixed everywhere.

    Source: Xu et al. 2020 (PC-DARTS), Section 3.
    """

    name = "partial-channels"
    source = "Xu et al. 2020"

    def __init__(self, *, k: PositiveInt = 4, edge_normalization: bool = False, shuffle: bool = True) -> None:
        self.k = int(checked("k", k, PositiveInt))
        self.edge_normalization, self.shuffle = edge_normalization, shuffle

    def build(self, candidates: Mapping[str, nn.Module], *, called: str) -> dict[str, nn.Module] | None:
        """Return the candidates with a k-th of their channels; None if they change the number of channels."""
        widths = {each: width_of(each) for each in candidates.values()}
        if any(width is not None and not keeps_width(each, width) for each, width in widths.items()):
            return None
        return {name: narrowed(each, self.k, called=f"{called}.{name}") for name, each in candidates.items()}

    def enter(self, x: Tensor) -> Tensor:
        """Return the first C/k channels."""
        if x.shape[1] % self.k:
            raise SpaceError(f"an edge has {x.shape[1]} channels, which k={self.k} does not divide: choose another k")
        return x[:, : x.shape[1] // self.k]

    def leave(self, mixed: Tensor, sources: Sequence[Source]) -> Tensor:
        """Return what was mixed and what has passed by, shuffled: once for all edges, whose sum it is."""
        if self.k == 1:
            return mixed
        rest = [(passed_by(x, mixed, self.k), weight) for x, weight in sources]
        scaled = [part if weight is None else weight * part for part, weight in rest]
        whole = torch.cat([mixed, reduce(torch.add, scaled)], 1)
        return channel_shuffle(whole, self.k) if self.shuffle else whole

"""PC-DARTS: the operations of an edge see a part of the channels, the others pass by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from balenas_plugin.errors import SpaceError
from balenas_plugin.mixed_ops._mixed_op import MixedOp, Source
from balenas_plugin.mixed_ops.channels import keeps_width, narrowed, passed_by, width_of
from balenas_plugin.mixed_ops.passing import joined
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

    @property
    def parts(self) -> tuple[int, bool]:  # type: ignore[override]  # k changes where a schedule widens
        """Into how many parts channels are divided, and whether they are shuffled."""
        return self.k, self.shuffle

    def build(self, candidates: Mapping[str, nn.Module], *, called: str) -> dict[str, nn.Module] | None:
        """Return the candidates with a k-th of their channels; None if they change the number of channels."""
        widths = {each: width_of(each) for each in candidates.values()}
        if any(width is not None and not keeps_width(each, width) for each, width in widths.items()):
            return None
        return {name: narrowed(each, self.k, called=f"{called}.{name}") for name, each in candidates.items()}

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first C/k channels, and the others."""
        channels = x.shape[1]
        if channels % self.k:
            raise SpaceError(f"an edge has {channels} channels, which k={self.k} does not divide: choose another k")
        first, others = x.split([channels // self.k, channels - channels // self.k], 1)
        if x.dim() == 4 and x.device.type == "cpu":  # few channels: pooling and convolutions are faster there
            first = first.contiguous(memory_format=torch.channels_last)
        return first, others

    def leave(self, mixed: Tensor, sources: Sequence[Source]) -> Tensor:
        """Return what was mixed and what has passed by, shuffled: once for all edges, whose sum it is."""
        if self.k == 1:
            return mixed
        weights = [weight for _, weight in sources if weight is not None]
        rests = [passed_by(others, mixed) for others, _ in sources]
        return joined(mixed, rests, weights or None, k=self.k, shuffle=self.shuffle)

"""The supernet of the space as NNI's model space."""

from __future__ import annotations

from nni.nas.nn.pytorch import LayerChoice, ModelSpace

from . import OPERATIONS, Network, operation


class ChainSupernet(ModelSpace, Network):
    """Every edge a choice among all layers; cells share their choices."""

    def __init__(self, channels: int = 4, num_labels: int = 10) -> None:
        super().__init__(
            edge=lambda name: LayerChoice({op: operation(op, channels) for op in OPERATIONS}, label=name),
            channels=channels,
            cells=1,
            num_labels=num_labels,
        )

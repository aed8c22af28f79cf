"""The one-shot supernets of NAS-Bench-1Shot1 as NNI's model spaces (Zela, Siems and Hutter 2020)."""

from __future__ import annotations

from functools import partial
from typing import cast

from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace
from torch import Tensor, nn

from balenas_plugin.options import PositiveInt

from .choice_blocks import BLOCKS, OPERATIONS, Blocks
from .one_shot_network import OneShotNetwork, block_operation, conv_bn_relu, placed


class OneShotCell(nn.Module):
    """Choice blocks, each fed by a projection of the cell's input and the blocks before it; their concatenation."""

    def __init__(self, blocks: Blocks, in_channels: int, channels: int) -> None:
        super().__init__()
        count = blocks.count
        self.operations = nn.ModuleList(
            LayerChoice(
                {name: block_operation(name, channels) for name in OPERATIONS}, label=blocks.operation_label(block)
            )
            for block in range(1, count + 1)
        )
        self.inputs = nn.ModuleDict(
            {
                str(node): InputChoice(node, n_chosen=blocks.parents[node - 1], label=blocks.input_label(node))
                for node in blocks.choosing
            }
        )
        widths = [*[channels] * count, count * channels]
        self.projections = nn.ModuleList(conv_bn_relu(in_channels, width, 1) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, blocks * channels, H, W)``."""
        outputs: list[Tensor] = []
        for block, operation in enumerate(self.operations, start=1):
            inputs = [self.projections[block - 1](x), *outputs]
            received = self.inputs[str(block)](inputs) if str(block) in self.inputs else sum(inputs[1:], inputs[0])
            outputs.append(operation(received))
        return cast(Tensor, self.inputs[str(len(outputs) + 1)]([self.projections[-1](x), *placed(outputs)]))


class OneShotSupernet(ModelSpace, OneShotNetwork):  # type: ignore[misc]  # NNI has no types
    """A supernet of NAS-Bench-1Shot1; its three spaces are subclasses.

    Args:
        channels: C of the first cells, doubled where a third and two thirds of the cells are over.
        num_cells: L.
        num_labels: size of the output.
    """

    blocks: Blocks

    def __init__(self, channels: PositiveInt = 16, num_cells: PositiveInt = 9, num_labels: PositiveInt = 10) -> None:
        super().__init__(
            cell=partial(OneShotCell, self.blocks),
            blocks=self.blocks.count,
            channels=channels,
            num_cells=num_cells,
            num_labels=num_labels,
        )


class OneShotSupernet1(OneShotSupernet):
    """Space 1."""

    blocks = BLOCKS[1]


class OneShotSupernet2(OneShotSupernet):
    """Space 2."""

    blocks = BLOCKS[2]


class OneShotSupernet3(OneShotSupernet):
    """Space 3."""

    blocks = BLOCKS[3]

"""What the supernets of NAS-Bench-1Shot1 are around their cells, and the network of one architecture in that form.

Module order and layers are the reference's, its two oddities included: batch-norm has momentum 0.997 (TensorFlow's
0.997 is PyTorch's 0.003), so running statistics are nearly those of the last batch; and the pooling between stacks pads
by 1, so 32 pixels become 17 and then 9.

Source: Zela, Siems and Hutter 2020 (NAS-Bench-1Shot1, Section 3); automl/nasbench-1shot1 cb0f0ec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .choice_blocks import Wiring
from .module_spec import CONV1X1, CONV3X3, MAXPOOL

_MOMENTUM = 0.997


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Return a convolution without bias that keeps the size, batch-norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels, momentum=_MOMENTUM),
        nn.ReLU(),
    )


def block_operation(name: str, channels: int) -> nn.Module:
    """Return the operation of a block, which keeps width and size."""
    if name == MAXPOOL:
        return nn.MaxPool2d(3, stride=1, padding=1)
    return conv_bn_relu(channels, channels, {CONV3X3: 3, CONV1X1: 1}[name])


def placed(outputs: Sequence[Tensor | None]) -> list[Tensor]:
    """Return each block's output as the cell's: in its own channels, with zeros in those of the other blocks.

    So a weighted concatenation is a weighted sum.
    """
    last = len(outputs) - 1
    return [
        F.pad(output, (0, 0, 0, 0, k * output.shape[1], (last - k) * output.shape[1]))
        for k, output in enumerate(outputs)
        if output is not None
    ]


class OneShotNetwork(nn.Module):
    """Cells between a stem and a classifier.

    Args:
        cell: makes a cell of its input's channels and those of its blocks.
        blocks: in a cell.
        channels: C of the first cells, doubled where a third and two thirds of the cells are over.
        num_cells: L.
        num_labels: size of the output.
    """

    def __init__(
        self, cell: Callable[[int, int], nn.Module], blocks: int, channels: int, num_cells: int, num_labels: int
    ) -> None:
        super().__init__()
        self.channels, self.num_cells, self.num_labels = channels, num_cells, num_labels
        self.stem = conv_bn_relu(3, channels, 3)
        self.cells = nn.ModuleList()
        given = channels
        for number in range(num_cells):
            channels *= 2 if self._pools_before(number) else 1
            self.cells.append(cell(given, channels))
            given = blocks * channels
        self.pool = nn.MaxPool2d(2, stride=2, padding=1)
        self.postprocess = nn.Sequential(
            nn.ReLU(), nn.Conv2d(given, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=False)
        )
        self.classifier = nn.Linear(channels, num_labels)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_labels)``."""
        x = self.stem(images)
        for number, cell in enumerate(self.cells):
            x = cell(self.pool(x) if self._pools_before(number) else x)
        logits: Tensor = self.classifier(self.postprocess(x).mean((2, 3)))
        return logits

    def _pools_before(self, cell: int) -> bool:
        return cell in (self.num_cells // 3, 2 * self.num_cells // 3)


class ChosenCell(nn.Module):
    """A supernet's cell with what one architecture uses of it."""

    def __init__(self, wiring: Wiring, in_channels: int, channels: int) -> None:
        super().__init__()
        self.wiring = wiring
        count = len(wiring.operations)
        self.used = [node for node in range(1, count + 2) if node not in wiring.loose]
        self.operations = nn.ModuleDict(
            {str(b): block_operation(wiring.operations[b - 1], channels) for b in self.used if b <= count}
        )
        self.projections = nn.ModuleDict(
            {
                str(node): conv_bn_relu(in_channels, channels * (1 if node <= count else count), 1)
                for node in self.used
                if 0 in wiring.parents[node - 1]
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, blocks * channels, H, W)``."""
        outputs: list[Tensor | None] = [None] * len(self.wiring.operations)
        result = x
        for node in self.used:
            parents = self.wiring.parents[node - 1]
            chosen = [output if k in parents else None for k, output in enumerate(outputs, start=1)]
            is_output = node > len(outputs)
            given = placed(chosen) if is_output else [output for output in chosen if output is not None]
            given += [self.projections[str(node)](x)] if 0 in parents else []
            result = sum(given[1:], given[0])
            if not is_output:
                outputs[node - 1] = self.operations[str(node)](result)
        return result

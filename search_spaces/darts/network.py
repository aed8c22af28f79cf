"""Build the network that a genotype is evaluated by, for small images (CIFAR) or large ones (ImageNet).

    image -> stem -> L cells, those at L/3 and 2L/3 with stride 2 and twice the channels -> mean -> linear classifier

Parameters come in the order of the reference's networks: stem; cells in order, each with its preprocessing and its
operations in the genotype's order; auxiliary head; classifier. NNI's frozen networks have the same tensors.

Source: Liu et al. 2019 (DARTS, `cnn/model.py`, and `cnn/model_search.py` for the form of a supernet).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from balenas_plugin.errors import OptionError
from balenas_plugin.options import PositiveInt, checked

from .genotype import Genotype, Pair
from .operations import FactorizedReduce, build_operation, relu_conv_bn

Form = Literal["evaluation", "supernet"]
"""Batch-norms with weights and none behind pools; or, as in the reference's supernet, the other way round in cells."""

Stem = Literal["cifar", "imagenet"]


class Preprocess(nn.ModuleList):
    """Bring the outputs of the two cells before to C channels, and the first of them to the size of the second."""

    def __init__(self, before_last: int, last: int, channels: int, *, reduced: bool, affine: bool = True) -> None:
        first = FactorizedReduce if reduced else relu_conv_bn
        super().__init__([first(before_last, channels, affine), relu_conv_bn(last, channels, affine)])

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Map two tensors to two of one shape."""
        before_last, last = states
        return [self[0](before_last), self[1](last)]


class Cell(nn.Module):
    """Nodes, each the sum of two operations on states before it; the output joins some of them.

    Args:
        pairs: (operation, state), two a node.
        concat: states that are joined.
        preprocessor: of the two states that are given.
        channels: C of every state.
        reduction: whether operations on the two states that are given have stride 2.
        form: see `Form`.
    """

    drop_path = 0.0
    """Probability that an operation's result is left out for an image."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        concat: Sequence[int],
        preprocessor: Preprocess,
        channels: int,
        *,
        reduction: bool,
        form: Form = "evaluation",
    ) -> None:
        super().__init__()
        self.preprocessor = preprocessor
        supernet = form == "supernet"
        layers = [
            build_operation(
                name,
                channels,
                stride=2 if reduction and source < 2 else 1,
                affine=not supernet,
                normalise_pools=supernet,
            )
            for name, source in pairs
        ]
        self.ops = nn.ModuleList(nn.ModuleList(layers[k : k + 2]) for k in range(0, len(layers), 2))
        self.pairs, self.concat = tuple(pairs), tuple(concat)

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        """Map the outputs of the two cells before to that of this one."""
        states = self.preprocessor([before_last, last])
        for node, (first, second) in enumerate(cast(Sequence[nn.ModuleList], self.ops)):
            (_, a), (_, b) = self.pairs[2 * node : 2 * node + 2]
            states.append(self._dropped(first, first(states[a])) + self._dropped(second, second(states[b])))
        return torch.cat([states[k] for k in self.concat], dim=1)

    def _dropped(self, operation: nn.Module, x: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0 or isinstance(operation, nn.Identity):
            return x
        keep = 1 - self.drop_path
        return x / keep * x.new_empty(len(x), 1, 1, 1).bernoulli_(keep)


class CornerPool(nn.Module):
    """The means of four overlapping windows, one in each corner, of 5/8 of the side: (N, C, H, W) -> (N, C, 2, 2).

    With CIFAR's 8x8 features and ImageNet's 7x7, these are the papers': 5x5, with stride 3 and 2.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool features of at least 3x3."""
        sides = x.shape[2:]
        windows = [math.ceil(5 * side / 8) for side in sides]
        strides = [side - window for side, window in zip(sides, windows, strict=True)]
        return F.avg_pool2d(x, windows, strides)


class AuxiliaryHead(nn.Module):
    """A classifier on the features behind the second reduction.

    Args:
        channels: of the features.
        num_classes: size of the output.
        last_norm: whether a batch-norm follows the last convolution.
    """

    def __init__(self, channels: int, num_classes: int, *, last_norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            CornerPool(),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([nn.BatchNorm2d(768)] if last_norm else []),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features to logits ``(N, num_classes)``."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class GenotypeNetwork(nn.Module):
    """The image classifier of a genotype; build it with `build_network`."""

    def __init__(
        self,
        genotype: Genotype,
        channels: int,
        cells: int,
        num_classes: int,
        *,
        stem: Stem,
        auxiliary: bool,
        auxiliary_last_norm: bool,
        drop_path: float,
        form: Form,
    ) -> None:
        super().__init__()
        self.genotype, self.drop_path = genotype, drop_path
        if stem == "imagenet":
            self.stem0 = nn.Sequential(
                nn.Conv2d(3, channels // 2, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(),
                nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            self.stem1 = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            before_last = last = channels
        else:
            before_last = last = 3 * channels
            self.stem = nn.Sequential(nn.Conv2d(3, last, 3, padding=1, bias=False), nn.BatchNorm2d(last))
        self.cells = nn.ModuleList()
        self.auxiliary_head: AuxiliaryHead | None = None
        reduced = stem == "imagenet"
        for k in range(cells):
            reduction = k in reductions(cells)
            channels *= 1 + reduction
            pairs, concat = genotype.cells["reduce" if reduction else "normal"]
            preprocessor = Preprocess(before_last, last, channels, reduced=reduced, affine=form == "evaluation")
            self.cells.append(Cell(pairs, concat, preprocessor, channels, reduction=reduction, form=form))
            before_last, last, reduced = last, len(concat) * channels, reduction
            if k == 2 * cells // 3:
                self._auxiliary_at, features = k, last
        if auxiliary:
            self.auxiliary_head = AuxiliaryHead(features, num_classes, last_norm=auxiliary_last_norm)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``; with the auxiliary head's in training mode."""
        before_last = self.stem0(images) if hasattr(self, "stem0") else self.stem(images)
        last = self.stem1(before_last) if hasattr(self, "stem1") else before_last
        auxiliary = None
        for k, cell in enumerate(self.cells):
            before_last, last = last, cell(before_last, last)
            if self.training and self.auxiliary_head is not None and k == self._auxiliary_at:
                auxiliary = self.auxiliary_head(last)
        logits: Tensor = self.classifier(last.mean(dim=(2, 3)))
        return logits if auxiliary is None else (logits, auxiliary)

    def new_epoch(self, epoch: int, epochs: int) -> None:
        """Set the probability of dropping paths to that of an epoch, counted from 0: `drop_path` x epoch / epochs."""
        for cell in cast(Sequence[Cell], self.cells):
            cell.drop_path = self.drop_path * epoch / epochs

    def extra_repr(self) -> str:
        """Show the genotype in the network's printed form."""
        return str(self.genotype)


def reductions(cells: int) -> tuple[int, int]:
    """Return which of a network's cells have stride 2 and double the channels."""
    return cells // 3, 2 * cells // 3


def build_network(
    genotype: Genotype,
    *,
    channels: int = 36,
    cells: int = 20,
    num_classes: int = 10,
    stem: Stem = "cifar",
    auxiliary: bool = False,
    auxiliary_last_norm: bool | None = None,
    drop_path: float = 0.0,
    form: Form = "evaluation",
) -> GenotypeNetwork:
    """Return the freshly initialised network of a genotype.

    Args:
        genotype: what the cells are.
        channels: C, the width of the first cells: 36 for CIFAR-10, 48 for ImageNet in the papers.
        cells: their number L: 20 for CIFAR-10, 14 for ImageNet.
        num_classes: size of the output.
        stem: "cifar" keeps the resolution, "imagenet" divides it by eight before the first cell.
        auxiliary: whether a second classifier behind the cell 2L/3 is trained too; papers weigh its loss by 0.4.
        auxiliary_last_norm: whether that ends with a batch-norm; None: on CIFAR. On ImageNet DARTS and PC-DARTS leave
            it out, P-DARTS has it.
        drop_path: its probability at the end of a training; `new_epoch` lets it grow. An identity is never dropped.
        form: "supernet" for the network that takes its weights from the reference's supernet.

    Raises:
        OptionError: a size is not a positive integer, or the probability not from 0 to below 1; or the channels are
            odd, which the stem for ImageNet halves.
    """
    for name, value in {"channels": channels, "cells": cells, "num_classes": num_classes}.items():
        checked(name, value, PositiveInt)
    if stem == "imagenet" and channels % 2:
        raise OptionError(f"channels must be even, because the stem for large images halves them, got {channels}")
    checked("drop_path", drop_path, Annotated[float, Field(ge=0, lt=1)])
    return GenotypeNetwork(
        genotype,
        channels,
        cells,
        num_classes,
        stem=stem,
        auxiliary=auxiliary,
        auxiliary_last_norm=stem == "cifar" if auxiliary_last_norm is None else auxiliary_last_norm,
        drop_path=drop_path,
        form=form,
    )

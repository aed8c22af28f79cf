"""A user's module of model spaces, copied beside the configs: one stops its process, others cannot be searched.

STOP_AT in the environment is the how-manieth forward pass something happens in, STOP_WITH a signal's number, or "nan".
"""

from __future__ import annotations

import os

import nni
import numpy as np
from nni.nas.hub.pytorch import NasBench201
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableConv2d, MutableLinear
from torch import Tensor, nn


class Stopping(NasBench201):
    """NAS-Bench-201 whose forward pass can kill the process, or return NaN."""

    passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        logits = super().forward(inputs)
        if self.passes == int(os.environ.get("STOP_AT", "0")):
            if os.environ["STOP_WITH"] == "nan":
                return logits * float("nan")
            os.kill(os.getpid(), int(os.environ["STOP_WITH"]))
        return logits


class NothingToSearch(ModelSpace):
    """A network without a choice."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(192, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(inputs.flatten(1))


class Viewing(ModelSpace):
    """A network that cannot run in channels-last memory, because of `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice({"conv": nn.Conv2d(3, 3, 3, padding=1), "wide": nn.Conv2d(3, 3, 1)}, label="layer")
        self.classifier = nn.Linear(192, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.layer(inputs)
        return self.classifier(features.view(len(features), -1))


class NumbersOfNumpy(ModelSpace):
    """A network that chooses among NumPy's numbers, which JSON cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = MutableConv2d(3, nni.choice("width", list(np.array([4, 8]))), kernel_size=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = MutableLinear(nni.choice("width", list(np.array([4, 8]))), 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.pool(self.layer(inputs)).flatten(1))


class NoSpace:
    """Something else."""

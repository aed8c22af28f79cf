"""A search computes the same with the depthwise convolutions of this package as with torch's."""

from __future__ import annotations

import nni
import torch
from nni.nas.hub.pytorch.proxylessnas import InvertedResidual
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableConv2d
from torch import Tensor, nn

from balenas_plugin import BaLeNAS
from balenas_plugin.fused import depthwise

from .searches import classification, loaders, search
from .spaces import CLASSES

IMAGE = (3, 8, 8)


class Mobile(ModelSpace):
    """Depthwise convolutions in a fused choice, in candidates that are called, and with a searched kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
        pointwise = nn.Sequential(nn.ReLU(), dilated, nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.fused = LayerChoice([pointwise, nn.Identity()], label="fused")
        self.called = LayerChoice([InvertedResidual(8, 8, 3, size) for size in (5, 7)], label="called")
        size = nni.choice("size", [3, 5])
        self.value = MutableConv2d(8, 8, size, padding=size // 2, groups=8, bias=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.value(self.called(self.fused(self.stem(x)))).mean((2, 3)))


def test_depthwise_convolutions_find_the_same_with_a_backward_pass_of_their_own(tmp_path, monkeypatch) -> None:
    """In whole searches; no module or weight is another for it."""
    monkeypatch.setattr(depthwise, "_used", {})

    def found(pays: bool) -> BaLeNAS:
        monkeypatch.setattr(depthwise, "pays", lambda *_: pays)
        torch.manual_seed(0)
        return search(Mobile(), classification(tmp_path, **loaders(shape=IMAGE)), num_mc_samples=1)

    expected = found(False).supernet.state_dict()
    assert not depthwise._used
    own = found(True)
    given, report = own.supernet.state_dict(), own.fusion_report()
    assert list(given) == list(expected)
    for name, weight in expected.items():
        torch.testing.assert_close(given[name], weight, rtol=1e-3, atol=1e-4)
    assert report["fused"] == "fused; backward passes of depthwise 3x3 dilation 2 by forward ones"
    assert report["called"].startswith("as NNI does")
    assert report["called.0.3"] == report["value"] == "backward pass of depthwise 5x5 by a forward one"
    assert report["called.1.3"] == "backward pass of depthwise 7x7 by a forward one"

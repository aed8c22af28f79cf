"""SynFlow and the check for a dead network hold in closed form, also far beyond the range of float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from balenas_plugin.proxies import depends_on_input, rank_value, score
from balenas_plugin.proxies._evaluation.exponents import ExponentTracking
from balenas_plugin.proxies._evaluation.linearised import NormalisationRemoved

DEPTH = 200
ONE_PIXEL = torch.randn(2, 1, 1, 1, generator=torch.Generator().manual_seed(0))


def chain(weight, bias, depth=DEPTH):
    """A network of 1x1 convolutions of one channel: h <- weight h + bias."""
    layers = []
    for _ in range(depth):
        layer = nn.Conv2d(1, 1, 1, bias=bias is not None)
        nn.init.constant_(layer.weight, -weight)  # SynFlow takes absolute values
        if bias is not None:
            nn.init.constant_(layer.bias, bias)
        layers += [layer, nn.BatchNorm2d(1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


def chain_saliency(weight, bias, depth=DEPTH):
    """SynFlow of `chain`, in Python's whole numbers: layer k adds (its input) x weight^(layers from k on)."""
    hidden, total = 1, 0
    for layer in range(depth):
        total += hidden * weight ** (depth - layer)
        hidden = hidden * weight + bias
    return total


def test_two_layers_with_biases_in_closed_form():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    w1, b1, w2, _ = (parameter.detach().abs() for parameter in model.parameters())
    through = (w2 @ w1).sum()
    expected = 2 * through + (w2 @ b1).sum()
    assert score("synflow", model, torch.randn(5, 3).double()) == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("bias", [None, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_deep_network_has_a_finite_logarithm(bias, dtype):
    model = chain(1000, bias).to(dtype)
    inputs = ONE_PIXEL.to(dtype)
    assert score("synflow", model, inputs) == math.inf  # 200 x 1000^200
    expected = math.log(chain_saliency(1000, bias or 0))
    assert rank_value("synflow", model, inputs) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [3, 5])
def test_with_and_without_exponents_the_value_is_the_same(weight):
    model = chain(weight, 2, depth=30)
    value = chain_saliency(weight, 2, depth=30)
    assert score("synflow", model, ONE_PIXEL) == pytest.approx(value, rel=1e-12)
    assert rank_value("synflow", model, ONE_PIXEL) == pytest.approx(math.log(value), rel=1e-12)


def test_a_float32_network_may_exceed_float32():
    model = chain(1000, None, depth=30)
    assert score("synflow", model, ONE_PIXEL) == pytest.approx(30 * 1e90, rel=1e-9)


def test_a_vanishing_network_is_not_a_dead_one():
    model = chain(2.0**-20, None)
    assert score("synflow", model, ONE_PIXEL) == 0  # 2^-4000
    assert depends_on_input(model, ONE_PIXEL)
    expected = math.log(DEPTH) - 20 * DEPTH * math.log(2)
    assert rank_value("synflow", model, ONE_PIXEL) == pytest.approx(expected, rel=1e-12)


class ResidualChain(nn.Module):
    """h <- h + 100 h, in two ways of writing it; with a branch that is zero."""

    def __init__(self, in_place):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(1, 1, 1, bias=False) for _ in range(DEPTH))
        self.in_place = in_place
        for layer in self.layers:
            nn.init.constant_(layer.weight, 100)

    def forward(self, x):
        for layer in self.layers:
            if self.in_place:
                branch = layer(F.relu(x, inplace=True))
                branch += x
                x = branch
            else:
                x = sum([x, layer(x), torch.zeros_like(x)])
        return x.flatten(1)


@pytest.mark.parametrize("in_place", [True, False])
def test_skip_connections_in_closed_form(in_place):
    expected = math.log(DEPTH) + math.log(100) + (DEPTH - 1) * math.log(101)
    assert rank_value("synflow", ResidualChain(in_place), ONE_PIXEL) == pytest.approx(expected, rel=1e-12)


class ManyOperations(nn.Module):
    """Homogeneous operations, sums, joins, and some that are neither."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.gate = nn.Conv2d(8, 8, 1)
        self.prelu = nn.PReLU()
        self.classifier = nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(x)
        y = F.max_pool2d(x, 3, 1, 1) + F.avg_pool2d(x, 3, 1, 1)
        y += x
        y = torch.cat([self.grouped(y)[:, :4], F.relu(x[:, 4:])], 1)
        y = y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1)))
        y = 1 + self.prelu(y) / 2
        left, right = y.chunk(2, 1)
        y = torch.stack([left, 3.0 * right]).mean(0) - 0.25
        y = F.interpolate(F.pad(torch.cat((y, y), dim=1), (1, 1, 1, 1)), scale_factor=2)
        y = F.relu6(y) + (2 * y).add_(0.5)
        return self.classifier(y.mean((2, 3)))


def test_exponents_change_neither_outputs_nor_gradients():
    torch.manual_seed(0)
    model = ManyOperations().double().eval()
    images = torch.randn(2, 3, 8, 8).double()
    parameters = [parameter for name, parameter in model.named_parameters() if not name.startswith("first.1")]
    with NormalisationRemoved():
        output = model(images).sum()
    with ExponentTracking() as tracking, NormalisationRemoved():
        mantissa = model(images).sum()
    scale = 2.0 ** tracking.exponent(mantissa)
    torch.testing.assert_close(mantissa * scale, output)
    assert 0.4 < mantissa.abs() < 1
    for with_exponents, without in zip(
        torch.autograd.grad(mantissa, parameters), torch.autograd.grad(output, parameters), strict=True
    ):
        torch.testing.assert_close(with_exponents * scale, without)


def test_a_network_with_saturating_units_is_not_dead():
    model = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid(), nn.Linear(1, 2))
    nn.init.constant_(model[0].weight, 1e4)  # on ones the sigmoid is flat in float32; on the batch it is not
    inputs = torch.full((2, 4), 1e-5)
    assert depends_on_input(model, inputs)


class Cut(nn.Module):
    """A classifier that multiplies its features by zero, and adds a bias."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)) * 0 + 1)


def test_a_network_that_is_cut_does_not_depend_on_its_input():
    assert not depends_on_input(Cut(), torch.randn(4, 3, 8, 8))
    zero_scale = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    assert depends_on_input(zero_scale, torch.randn(4, 3, 8, 8))
    nn.init.zeros_(zero_scale[1].weight)
    assert not depends_on_input(zero_scale, torch.randn(4, 3, 8, 8))


def test_a_softmax_output_depends_on_the_input():
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))  # the sum of its outputs does not
    assert depends_on_input(model, torch.randn(4, 4))

"""The network of an architecture is the benchmark's: same parameters in the same order, same outputs."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.search_spaces.nasbench201 import build_network, format_string, parse
from balenas_plugin.search_spaces.nasbench201.operations import build_operation

NAMES = ("all_skip", "mixed_2", "mixed_3", "dead_out", "best_c10")
DEAD = "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|none~0|none~1|none~2|"


@pytest.mark.parametrize("name", NAMES)
def test_reference_weights_load_by_order_and_give_the_reference_logits(parity_dir, name):
    reference = json.loads((parity_dir / "proxies.json").read_text())["archs"][name]
    weights = torch.load(parity_dir / "proxies_weights.pt", weights_only=True)[name]
    images = torch.load(parity_dir / "proxies_batch.pt", weights_only=True)["x"]

    network = build_network(reference["arch"])
    parameters = list(network.parameters())
    assert sum(parameter.numel() for parameter in parameters) == reference["n_params_total"]
    assert [parameter.shape for parameter in parameters] == [weight.shape for weight in weights.values()]
    with torch.no_grad():
        for parameter, weight in zip(parameters, weights.values(), strict=True):
            parameter.copy_(weight)
        logits = network(images)[0]
    torch.testing.assert_close(logits, torch.tensor(reference["logits_row0"]), atol=1e-5, rtol=1e-5)


def test_string_and_indices_build_the_same_network():
    by_string = build_network(DEAD, channels=2, cells_per_stage=1)
    by_indices = build_network(parse(DEAD), channels=2, cells_per_stage=1)
    assert str(by_string) == str(by_indices)
    assert by_indices.architecture == DEAD


def test_sizes_are_as_asked():
    network = build_network(DEAD, channels=3, cells_per_stage=2, num_classes=7)
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 7)
    assert network.classifier.in_features == 12
    assert len(network.cells) == 3 * 2 + 2


def test_only_the_operations_of_the_architecture_exist():
    network = build_network((0, 0, 0, 3, 0, 1), channels=2, cells_per_stage=1)
    assert list(network.cells[0].operations) == ["3<-0", "3<-2"]
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 1 + 3 + 2 * 3  # stem, one in each cell, three in each residual block


def test_a_cell_without_a_live_edge_is_zero_of_the_right_shape_and_trains():
    network = build_network(DEAD, channels=2, cells_per_stage=1)
    assert torch.equal(network.cells[0](torch.randn(2, 2, 8, 8)), torch.zeros(2, 2, 8, 8))
    logits = network.train()(torch.randn(4, 3, 8, 8))
    assert torch.equal(logits, network.classifier.bias.expand(4, 10))
    logits.sum().backward()
    assert torch.equal(network.classifier.bias.grad, torch.full((10,), 4.0))


def test_a_cell_computes_the_sum_over_its_edges():
    indices = (1, 4, 1, 1, 0, 4)  # node 1 = x, node 2 = pool(x) + x, node 3 = x + pool(node 2)
    cell = build_network(indices, channels=2, cells_per_stage=1).cells[0]
    x = torch.randn(1, 2, 6, 6)
    pool = build_operation("avg_pool_3x3", 2)
    torch.testing.assert_close(cell(x), x + pool(pool(x) + x))


def test_pooling_does_not_count_the_padding():
    assert torch.equal(build_operation("avg_pool_3x3", 1)(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize("name", ["none", "conv_3x3"])
def test_an_operation_without_a_layer_is_refused(name):
    with pytest.raises(SpaceError, match=f"'{name}' has no layer; allowed: skip_connect"):
        build_operation(name, 4)


@pytest.mark.parametrize("option", [{"channels": 0}, {"cells_per_stage": -1}, {"num_classes": 2.5}, {"channels": True}])
def test_a_wrong_size_is_refused(option):
    with pytest.raises(OptionError, match=f"{next(iter(option))} is .* at least 1"):
        build_network(format_string((1,) * 6), **option)


def test_a_malformed_architecture_is_refused():
    with pytest.raises(SpaceError, match="node 1"):
        build_network("skip everywhere")
    with pytest.raises(SpaceError, match="2 operation indices"):
        build_network((1, 2))

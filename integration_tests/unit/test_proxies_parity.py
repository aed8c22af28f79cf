"""The proxies of five NAS-Bench-201 networks equal those of a public implementation, in float64."""

from __future__ import annotations

import json
import math

import pytest
import torch

from balenas_plugin.proxies import list_proxies, rank_value, score
from balenas_plugin.search_spaces.nasbench201 import build_network

SMALL = ("all_skip", "mixed_2", "dead_out")
LARGE = ("mixed_3", "best_c10")
PROXIES = ("grad_norm", "snip", "grasp", "fisher", "jacob_cov", "plain", "synflow_bn", "synflow")
# On the large networks only one proxy of each kind: float64 convolutions are slow, their second derivatives more so.
CASES = [(name, proxy) for name in SMALL for proxy in PROXIES] + [
    *(("mixed_3", proxy) for proxy in ("snip", "synflow")),
    *(("best_c10", proxy) for proxy in ("jacob_cov", "synflow_bn")),
]


@pytest.fixture(scope="module")
def reference(parity_dir):
    return json.loads((parity_dir / "proxies.json").read_text())["archs"]


@pytest.fixture(scope="module")
def networks(parity_dir, reference):
    weights = torch.load(parity_dir / "proxies_weights.pt", weights_only=True)
    built = {}
    for name, record in reference.items():
        built[name] = build_network(record["arch"]).double()
        with torch.no_grad():
            for parameter, weight in zip(built[name].parameters(), weights[name].values(), strict=True):
                parameter.copy_(weight)
    return built


@pytest.fixture(scope="module")
def batch(parity_dir):
    batch = torch.load(parity_dir / "proxies_batch.pt", weights_only=True)
    return batch["x"].double(), batch["y"]


@pytest.mark.parametrize(("name", "proxy"), CASES)
def test_a_proxy_equals_the_reference(reference, networks, batch, name, proxy):
    expected = reference[name]["float64"][proxy]
    value = score(proxy, networks[name], *batch)
    if expected is None:
        assert math.isnan(value)
    else:
        assert value == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize("name", SMALL + LARGE)
def test_the_number_of_parameters_equals_the_reference(reference, networks, batch, name):
    assert score("params", networks[name], *batch) == reference[name]["n_params_total"]


def test_synflow_ranks_by_its_logarithm(reference, networks, batch):
    for name in ("all_skip", "mixed_2", "mixed_3", "best_c10"):
        expected = math.log(reference[name]["float64"]["synflow"])
        assert rank_value("synflow", networks[name], *batch) == pytest.approx(expected, rel=1e-12)


def test_the_dead_network_is_last_under_every_proxy(networks, batch):
    images, labels = batch[0][:8].float(), batch[1][:8]
    dead, alive = (networks[name].float() for name in ("dead_out", "all_skip"))
    try:
        for proxy in list_proxies():
            assert rank_value(proxy, dead, images, labels) == -math.inf
            assert math.isfinite(rank_value(proxy, alive, images, labels))
    finally:
        dead.double(), alive.double()


def test_float32_networks_score_as_float64_ones_do(networks, batch):
    network = networks["all_skip"]
    images, labels = batch[0][:16], batch[1][:16]
    exact = {proxy: score(proxy, network, images, labels) for proxy in ("snip", "grasp", "jacob_cov", "synflow")}
    try:
        rough = {proxy: score(proxy, network.float(), images.float(), labels) for proxy in exact}
    finally:
        network.double()
    assert rough == pytest.approx(exact, rel=1e-2)
    assert rough["snip"] != exact["snip"]  # computed in the dtype that was given

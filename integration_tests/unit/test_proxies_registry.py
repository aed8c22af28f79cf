"""Proxies are found by name, those of other packages too."""

from __future__ import annotations

import importlib.metadata
import math
import sys
import types

import pytest
import torch
from torch import nn

from balenas_plugin.errors import OptionError
from balenas_plugin.proxies import Proxy, get_proxy, list_proxies, rank_value, score

BUILT_IN = sorted(
    ["synflow", "synflow_bn", "snip", "grasp", "grad_norm", "fisher", "plain", "jacob_cov", "naswot", "params", "flops"]
)
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 5))
INPUTS = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_unknown_proxies_are_refused_with_the_nearest_name():
    with pytest.raises(OptionError, match=r"unknown proxy 'synflw'; allowed: fisher, .*; did you mean 'synflow'"):
        score("synflw", NETWORK, INPUTS)
    with pytest.raises(OptionError, match="unknown proxy"):
        get_proxy("")


def test_every_built_in_proxy_says_what_it_is():
    assert [name for name in list_proxies() if name in BUILT_IN] == BUILT_IN
    for name in BUILT_IN:
        proxy = get_proxy(name)
        assert proxy.name == name
        assert proxy.description
        assert "\n" not in proxy.description
        assert proxy.source
        assert isinstance(proxy.higher_is_better, bool)


def offer(monkeypatch, name, thing):
    """Make `thing` the proxy that another installed package offers as `name`."""
    module = types.ModuleType(f"third_party_{name}")
    module.PROXY = thing
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = importlib.metadata.EntryPoint(name, f"{module.__name__}:PROXY", "balenas_plugin.proxies")
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints([entry]).select(group=group)
    )


def depth_proxy(**changes):
    def count_layers(model, inputs, targets):
        return float(sum(isinstance(layer, nn.Linear) for layer in model.modules()))

    options = {"name": "depth", "compute": count_layers, "higher_is_better": False, "needs_labels": False}
    return Proxy(**(options | {"description": "linear layers", "source": "this test"} | changes))


def test_another_package_can_add_a_proxy(monkeypatch):
    offer(monkeypatch, "depth", depth_proxy())
    assert "depth" in list_proxies()
    assert score("depth", NETWORK, INPUTS) == 2
    assert rank_value("depth", NETWORK, INPUTS) == -2  # smaller is better


def test_another_package_cannot_replace_a_built_in_proxy(monkeypatch):
    offer(monkeypatch, "params", depth_proxy(name="params"))
    assert list_proxies() == BUILT_IN
    assert score("params", NETWORK, INPUTS) > 2


def test_a_broken_proxy_of_another_package_is_reported_when_it_is_used(monkeypatch):
    offer(monkeypatch, "bare", lambda model, inputs, targets: 1.0)
    assert score("params", NETWORK, INPUTS) > 0
    with pytest.raises(OptionError, match=r"'third_party_bare:PROXY' is a function; it must be a .*Proxy"):
        get_proxy("bare")
    offer(monkeypatch, "absent", None)
    monkeypatch.delitem(sys.modules, "third_party_absent")
    with pytest.raises(OptionError, match=r"'absent' could not be loaded .* Repair or uninstall"):
        get_proxy("absent")


@pytest.mark.parametrize(("name", "value"), [("nan", math.nan), ("infinity", math.inf), ("minus", -math.inf)])
def test_a_value_that_is_not_finite_is_last(monkeypatch, name, value):
    offer(monkeypatch, name, depth_proxy(name=name, compute=lambda model, inputs, targets: value))
    assert rank_value(name, NETWORK, INPUTS) == -math.inf

"""NASLib's zero-cost predictors and ours rank NAS-Bench-201 networks alike: with the real NASLib alone."""

from __future__ import annotations

import pytest
import torch

from balenas_plugin.proxies import rank_value

from .which import REAL

if not REAL:
    pytest.skip("the double has no zero-cost predictors", allow_module_level=True)

from naslib.predictors.zerocost import ZeroCost
from naslib.search_spaces import NasBench201SearchSpace

ARCHITECTURES = [
    (2, 2, 2, 2, 2, 2),
    (3, 0, 2, 4, 2, 3),
    (0, 0, 3, 0, 4, 0),
    (4, 1, 0, 3, 1, 2),
    (3, 2, 3, 2, 0, 2),
    (0, 1, 0, 2, 1, 3),
]
"""In NASLib's notation: index of the operation of every edge."""


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 32, 32, generator=generator), torch.randint(10, (8,), generator=generator)


@pytest.fixture(scope="module")
def networks():
    found = []
    for architecture in ARCHITECTURES:
        torch.manual_seed(0)
        graph = NasBench201SearchSpace()
        graph.set_spec(list(architecture))
        graph.parse()
        found.append(graph)
    return found


@pytest.mark.parametrize("proxy", ["synflow", "snip", "grasp"])
def test_same_ranking(proxy, networks, data):
    theirs = [ZeroCost(method_type=proxy).query(graph.clone(), dataloader=[data]) for graph in networks]
    ours = [rank_value(proxy, graph.clone(), *data) for graph in networks]
    order = sorted(range(len(networks)), key=lambda i: ours[i])

    assert sorted(range(len(networks)), key=lambda i: theirs[i]) == order

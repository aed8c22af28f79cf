"""Zero-cost proxies of NAS-Bench-201 networks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from balenas_plugin.proxies import score
from balenas_plugin.restoring import untouched
from balenas_plugin.search_spaces.nasbench201 import build_network
from replays import difference, largest

INPUTS: set[str] = set()
_OF_FLOAT32 = 1e-4  # the reference's logits


def archs(document: dict[str, Any]) -> float:
    """Score every network in float64."""
    path = Path(document["path"])
    weights, batch = (_beside(path, name) for name in ("weights", "batch"))
    images, labels = batch["x"].double(), batch["y"]
    return largest(_network(record, weights[name], images, labels) for name, record in document["archs"].items())


def _network(record: dict[str, Any], weights: dict[str, Any], images: Any, labels: Any) -> float:
    network = build_network(record["arch"]).double()
    with torch.no_grad():
        for parameter, weight in zip(network.parameters(), weights.values(), strict=True):
            parameter.copy_(weight)
    expected = {**record["float64"], "params": record["n_params_total"]}
    with untouched(network), torch.no_grad():
        logits = network.train()(images)[0]
    if difference((logits, record["logits_row0"])) > _OF_FLOAT32:
        return math.inf
    return largest(
        difference((score(proxy, network, images, labels), math.nan if value is None else value))
        for proxy, value in expected.items()
    )


def _beside(path: Path, name: str) -> Any:
    """Return a file of tensors: of this file's own stem if there is one, else the shared one."""
    names = f"{path.stem}_{name}.pt", f"proxies_{name}{path.stem.removeprefix('proxies')}.pt", f"proxies_{name}.pt"
    found = next(each for each in map(path.with_name, names) if each.exists())
    return torch.load(found, weights_only=True)


SECTIONS = {"archs": archs}

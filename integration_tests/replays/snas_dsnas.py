"""SNAS's relaxed samples; DSNAS is not replayed yet."""

from __future__ import annotations

from typing import Any

import torch

from balenas_plugin.distributions.gumbel import GumbelSoftmax
from replays import difference, largest, tensor
from replays.hosts import Recorded, by_row, rows

INPUTS: set[str] = set()


def snas(document: dict[str, Any]) -> float:
    """Replay the samples and their gradients at several temperatures."""
    C = tensor(document["snas"]["C"])
    off = []
    for row in document["snas"]["rows"]:
        distribution = GumbelSoftmax(by_row(document["snas"]["log_alpha"]), temperature=row["temperature"])
        distribution.noise = Recorded(list(-tensor(row["uniform"]).log()))  # -log(u) is exponential
        draw = distribution.sample()
        z = torch.stack(list(draw.weights.values()))
        loss = 0.5 * (z * C).sum(-1).square().sum()
        found = dict(zip(draw.weights, torch.autograd.grad(loss, list(draw.weights.values())), strict=True))
        off.append(difference((z, row["z"]), (loss, row["loss"]), (rows(draw.pull_back(found)), row["grad_log_alpha"])))
    return largest(off)


SECTIONS = {"snas": snas}

"""GAEA's exponentiated gradient; the learned edge weights are a choice among the inputs of a node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from balenas_plugin.distributions.exponentiated_gradient import ExponentiatedGradient
from balenas_plugin.mixed_ops.edge_weights import EdgeWeights
from replays import difference, largest, tensor
from replays.hosts import by_row, rows

INPUTS: set[str] = set()
CELLS = ("normal", "reduce")


def projection(document: dict[str, Any]) -> float:
    """Replay the projection alone: a step without a gradient, from an input that is not on the simplex."""
    off = []
    for row in document["projection"]["rows"]:
        x = tensor(row["input"])
        distribution = ExponentiatedGradient(by_row([torch.zeros_like(x)]), lr=1.0)
        away = distribution.mean().weights["000"].detach().log() - x.log()
        distribution.update(lambda draw, away=away: (torch.zeros(()), {"000": away}))
        off.append(difference((distribution.mean().weights["000"], row["output"])))
    return largest(off)


def cases(document: dict[str, Any]) -> float:
    """Replay whole searches."""
    return largest(_searched(case) for case in document["cases"])


def _searched(case: dict[str, Any]) -> float:
    sizes = [k + 2 for k in range(case["nodes"])]
    costs = tensor([row for cell in CELLS for row in case["C"][cell]])
    theta = ExponentiatedGradient(
        by_row(costs * 0), lr=case["arch_lr"], entropic_weight=case["entropic_weight"], floor=1e-5
    )
    inputs = by_row([torch.zeros(n) for _ in CELLS for n in sizes])
    edges = ExponentiatedGradient.edges(inputs, {"lr": case["edge_lr"] or 1.0})  # as a search makes it
    off = []
    theta.start()
    edges.start()
    for batch, step in zip(case["batches"], case["steps"], strict=True):
        found: dict[str, Any] = {}

        def evaluate(draw: Any, batch: Any = batch, found: Any = found) -> tuple[Tensor, Any]:
            logs = [p.detach().requires_grad_() for p in edges.parameters]
            shares = [p.softmax(-1) for p in logs]
            e = torch.cat(shares) if case["learn_edges"] else torch.ones(len(costs), dtype=torch.float64)
            mixed = torch.stack([(w * c).sum() for w, c in zip(draw.weights.values(), costs, strict=True)])
            loss = 0.5 * (batch["x"] * (e * mixed).sum() - batch["y"]) ** 2
            gradients = torch.autograd.grad(loss, [*draw.weights.values(), *(logs if case["learn_edges"] else [])])
            found.update(loss=loss.detach(), edges=gradients[len(costs) :])
            return loss.detach(), dict(zip(draw.weights, gradients, strict=False))

        expected = (step["before"], step["after"])
        off.append(difference((_edges(case, edges), _flat(expected[0]["edge"])), (_theta(theta), _rows(expected[0]))))
        theta.update(evaluate)
        loss = found.pop("loss")
        if case["learn_edges"]:
            edges.step([found["edges"]])
        off.append(difference((_edges(case, edges), _flat(expected[1]["edge"])), (_theta(theta), _rows(expected[1]))))
        off.append(difference((loss, step["loss_without_regulariser"])))
    return largest(off)


def _theta(distribution: ExponentiatedGradient) -> Tensor:
    return rows(distribution.mean().weights)


def _rows(record: dict[str, Any]) -> Tensor:
    return tensor([row for cell in CELLS for row in record["theta"][cell]])


def _edges(case: dict[str, Any], edges: EdgeWeights) -> Tensor:
    found = torch.cat([logs.detach().softmax(-1) for logs in edges.parameters])
    return found if case["learn_edges"] else torch.ones_like(found)


def _flat(record: dict[str, Any]) -> Tensor:
    return tensor([e for cell in CELLS for e in record[cell]])


SECTIONS = {"projection": projection, "cases": cases}

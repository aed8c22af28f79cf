"""SNAS's relaxed samples, and DSNAS's steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from balenas_plugin.distributions import Draw, Weights
from balenas_plugin.distributions.categorical import Categorical
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


def dsnas(document: dict[str, Any]) -> float:
    """Replay one-level steps; the FLOPs term is a loss that reads the logits besides."""
    record, off = document["dsnas"], []
    distribution = Categorical(
        by_row(record["log_alpha0"]),
        optimizer=lambda alphas: torch.optim.Adam(alphas, lr=record["arch_lr"], betas=(0.5, 0.999)),
    )
    scales = by_row(record["scales"])
    for step in record["steps"]:
        off.append(difference((_stacked(distribution.parameters), step["log_alpha_before"])))
        distribution.noise = Recorded([_clocks(k, record["ops"]) for k in step["sampled"]])
        for a in scales.values():
            a.grad = None

        def evaluate(draw: Draw, step: Any = step) -> tuple[Tensor, Weights]:
            h = tensor(step["x"])
            for (label, k), a in zip(draw.chosen.items(), scales.values(), strict=True):
                h = draw.weights[label][k] * (a[k] * h + 0.1 * torch.sin(3 * a[k].detach() * h))
            loss = 0.5 * ((h - tensor(step["t"])) ** 2).mean()
            loss.backward()
            gates = {label: w.grad for label, w in draw.weights.items()}
            flops = [
                distribution.parameters[label].softmax(-1)[k] * tensor(row)[k]
                for (label, k), row in zip(draw.chosen.items(), record["flops"], strict=True)
            ]
            penalty = record["flops_loss_coef"] * torch.stack(flops).sum()
            parameters = distribution.parameters
            draw.direct = dict(zip(parameters, torch.autograd.grad(penalty, list(parameters.values())), strict=True))
            log_p = torch.stack([parameters[label].log_softmax(-1)[k] for label, k in draw.chosen.items()]).sum()
            off.append(
                difference(
                    (list(draw.chosen.values()), step["sampled"]),
                    (loss, step["error_loss"]),
                    (log_p, step["log_prob_of_sample"]),
                    ([gates[label][k] for label, k in draw.chosen.items()], step["dloss_dgate"]),
                )
            )
            return loss.detach(), gates

        distribution.update(evaluate)
        gradients = torch.stack([a.grad for a in distribution.parameters.values()])
        expected = [[0.0 if g is None else g for g in row] for row in step["scale_grads"]]
        off.append(
            difference(
                (gradients, step["log_alpha_grad"]),
                (torch.stack([a.grad for a in scales.values()]), expected),
                (_stacked(distribution.parameters), step["log_alpha_after"]),
            )
        )
    return largest(off)


def _clocks(k: int, operations: int) -> Tensor:
    """Return exponential clocks by which the k-th operation is drawn, whatever the probabilities."""
    return torch.full((operations,), 1e200, dtype=torch.float64).index_fill(0, torch.tensor(k), 1.0)


def _stacked(parameters: Any) -> Tensor:
    return torch.stack([p.detach() for p in parameters.values()])


SECTIONS = {"snas": snas, "dsnas": dsnas}

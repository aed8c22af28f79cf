"""PARSEC: importance weights of sampled architectures, and what they make of the gradients of both levels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.distributions import Draw
from balenas_plugin.distributions.importance_weighted import ImportanceWeighted
from balenas_plugin.search import Order, Search
from replays import difference, largest, tensor
from replays.hosts import Recorded, ToyHost, by_row

INPUTS: set[str] = set()


def cases(document: dict[str, Any]) -> float:
    """Replay whole searches."""
    return largest(_searched(case) for case in document["cases"])


def _searched(case: dict[str, Any]) -> float:
    v = nn.Parameter(tensor(case["v0"]))

    def loss(draw: Draw, X: Any, y: Any) -> Tensor:
        found = sum(
            (w[k] * v[e, k] * tensor(X)[:, e])
            for e, (w, k) in enumerate(zip(draw.weights.values(), draw.chosen.values(), strict=True))
        )
        return (0.5 * (found - tensor(y)) ** 2 + 0.5 * math.log(2 * math.pi)).mean()

    def optimizer(alphas: list[Tensor]) -> torch.optim.Optimizer:
        if case["alpha_optimizer"] == "sgd":
            return torch.optim.SGD(alphas, lr=case["lr_alpha"])
        return torch.optim.Adam(alphas, lr=case["lr_alpha"], betas=tuple(case["alpha_betas"]))

    temperature = {"sum": 1.0, "mean": 1 / case["batch"]}[case["likelihood"]]
    distribution = ImportanceWeighted(
        by_row(case["alpha0"]), num_mc_samples=case["K"], temperature=temperature, optimizer=optimizer
    )
    host = ToyHost(loss, [v], clip=math.inf, lr=case["lr_v"])
    search = Search(distribution, Order(weight_step="sample"))
    return largest(_step(case, step, search, host, v) for step in case["steps"])


def _step(case: dict[str, Any], step: dict[str, Any], search: Search, host: ToyHost, v: nn.Parameter) -> float:
    distribution: Any = search.distribution
    p = torch.stack([a.detach().softmax(-1) for a in distribution.parameters.values()])
    drawn = [
        [min(int((row.cumsum(0) <= u).sum()), case["ops"] - 1) for row, u in zip(p, us, strict=True)]
        for us in step["uniforms"]
    ]
    distribution.noise = Recorded([_clocks(k, case["ops"]) for architecture in drawn for k in architecture])
    host.val = host.train = (step["X"], step["y"])
    losses = []
    before = host.loss
    host.loss = lambda draw, X, y: losses.append(before(draw, X, y)) or losses[-1]
    search.architecture_step(host)
    host.loss = before
    off = [float(any(loss.requires_grad for loss in losses))]  # forward passes alone
    v.grad = None
    for k, omega in enumerate(distribution.importance):  # of the draws of which a weight step takes one, by omega
        distribution.noise = Recorded([_clocks(k, case["K"])])
        draw = distribution.training_draw()
        (omega * host.loss(draw, *host.train)).backward()
    likelihoods = -distribution.temperature * case["batch"] * torch.stack(losses)
    frequency = [
        torch.zeros(case["ops"], dtype=torch.float64).index_add(0, ks, distribution.importance)
        for ks in distribution.drawn.values()
    ]
    off.append(
        difference(
            (p, step["probabilities"]),
            (torch.stack(list(distribution.drawn.values()), dim=1), step["architectures"]),
            (torch.stack(losses), step["mean_nll"]),
            (likelihoods.logsumexp(0) - math.log(case["K"]), step["log_marginal_likelihood_estimate"]),
            (distribution.importance, step["importance_weights"]),
            (distribution.effective_sample_size, step["effective_sample_size"]),
            (torch.stack(frequency), step["weighted_frequency"]),
            (
                torch.stack([a.grad for a in distribution.parameters.values()]),
                step["grad_alpha_of_negative_log_marginal"],
            ),
            (torch.stack(list(distribution.parameters.values())), step["alpha_after"]),
            (v.grad, step["grad_v"]),
        )
    )
    host.sgd.step()
    off.append(difference((v, step["v_after"])))
    return largest(off)


def _clocks(k: int, count: int) -> Tensor:
    """Return exponential clocks by which the k-th is drawn, whatever the probabilities."""
    return torch.full((count,), 1e200, dtype=torch.float64).index_fill(0, torch.tensor(k), 1e-200)


SECTIONS = {"cases": cases}

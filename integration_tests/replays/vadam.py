"""VAdam and the paper's literal equations on a quadratic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from balenas_plugin.bayes.vadam import VAdam
from replays import difference, largest, tensor

INPUTS = {"problem", "eps"}


def steps(document: dict[str, Any], options: dict[str, Any], num_mc_samples: int, *, noise: str) -> Iterator[Any]:
    """Yield after each step the optimizer, its parameters, and where and with what gradients the loss was evaluated."""
    problem = document["problem"]
    A, b, mu = tensor(problem["A"]), tensor(problem["b"]), tensor(problem["mu0"])
    shapes = [torch.Size(shape) for shape in problem["param_shapes"]]
    params = [
        torch.nn.Parameter(piece.reshape(shape).clone())
        for piece, shape in zip(mu.split([shape.numel() for shape in shapes]), shapes, strict=True)
    ]
    scale = 0.0 if noise == "zero" else 1.0
    pieces = iter(
        scale * piece.reshape(shape)
        for rows in document["eps"]
        for row in rows[:num_mc_samples]
        for piece, shape in zip(tensor(row).split([s.numel() for s in shapes]), shapes, strict=True)
    )
    optimizer = VAdam(params, num_mc_samples=num_mc_samples, noise=lambda _: next(pieces), **options)
    for _ in range(problem["T"]):
        drawn, gradients = [], []

        def closure(drawn: list[Any] = drawn, gradients: list[Any] = gradients) -> Any:
            x = flat(params)
            loss = 0.5 * x @ A @ x - b @ x
            loss.backward()
            drawn.append(x.detach())
            gradients.append(flat([p.grad for p in params]))
            return loss

        optimizer.step(closure)
        yield optimizer, params, torch.stack(drawn), torch.stack(gradients)


def flat(tensors: list[Any]) -> Any:
    """Return tensors as one vector."""
    return torch.cat([t.flatten() for t in tensors])


def cases(document: dict[str, Any]) -> float:
    """Replay Khan et al.'s VAdam."""
    return largest(_vadam(document, case) for case in document["cases"].values())


def _vadam(document: dict[str, Any], case: dict[str, Any]) -> float:
    hyper = case["hyper"]
    options = {
        "lr": hyper["lr"],
        "betas": tuple(hyper["betas"]),
        "prior_precision": hyper.get("prior_prec", 1.0),
        "initial_precision": float(hyper["prec_init"]),
        "dataset_size": hyper["train_set_size"],
    }
    found = steps(document, options, hyper["num_samples"], noise=case["noise"])
    return largest(
        difference(
            (flat([optimizer.state[p]["m"] for p in params]), expected["m"]),
            (flat([optimizer.state[p]["s"] for p in params]), expected["s"]),
            (flat(params), expected["mu"]),
            (flat([optimizer.precision(p) for p in params]), expected["precision"]),
            (flat([optimizer.precision(p).rsqrt() for p in params]), expected["sigma"]),
            (drawn, expected["theta_samples"]),
            (gradients, expected["grad_at_samples"]),
        )
        for expected, (optimizer, params, drawn, gradients) in zip(case["steps"], found, strict=True)
    )


def newton(document: dict[str, Any]) -> float:
    """Replay Eq. (17) and (18)."""
    return largest(_newton(document, case) for case in document["newton_form_eq17_18"].values())


def _newton(document: dict[str, Any], case: dict[str, Any]) -> float:
    options = {
        "lr": case["beta"],
        "betas": (case["gamma"], 0.999),
        "prior_precision": case["delta"],
        "initial_precision": case["N"] * case["s0"] + case["delta"],
        "dataset_size": case["N"],
        "update": "newton",
    }
    found = steps(document, options, case["M"], noise=case["noise"])
    return largest(
        difference(
            (flat(params), expected["mu"]),
            (flat([optimizer.state[p]["s"] for p in params]), expected["s"]),
            (gradients.mean(0), expected["g_hat"]),
        )
        for expected, (optimizer, params, _, gradients) in zip(case["steps"], found, strict=True)
    )


SECTIONS = {"cases": cases, "newton_form_eq17_18": newton}

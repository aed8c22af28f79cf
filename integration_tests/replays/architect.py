"""First- and second-order searches of a toy bilevel model, and the Hessian in its architecture parameters."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.bayes.architect import finite_difference_hvp, gradients, unrolled_weights
from balenas_plugin.bayes.second_derivatives.hessian import architecture_hessian, largest_eigenvalue
from balenas_plugin.bayes.vadam import VAdam
from balenas_plugin.distributions import Distribution, Draw
from balenas_plugin.distributions.gaussian import Gaussian
from balenas_plugin.distributions.point import Point
from balenas_plugin.search import Order, Search
from replays import difference, largest, put, tensor
from replays.hosts import Recorded, ToyHost, by_row

INPUTS = {"hyper", "init", "alpha", "batches", "eps"}
OPERATIONS = (lambda x: 0 * x, lambda x: x, torch.tanh, lambda x: x * torch.sigmoid(x))


class Toy:
    """The reference's model, its weight optimizer, and its alphas by label: "0/0", "0/1" and "1/0"."""

    def __init__(self, document: dict[str, Any]) -> None:
        hyper = document["hyper"]
        self.weights = [nn.Parameter(tensor(document["init"][name])) for name in ("W1", "W2", "W3", "b")]
        self.alphas = {f"{c}/{label}": row for c, a in enumerate(document["alpha"]) for label, row in by_row(a).items()}
        self.host = ToyHost(
            self.loss,
            self.weights,
            clip=hyper["grad_clip"],
            lr=hyper["w_lr"],
            momentum=hyper["w_momentum"],
            weight_decay=hyper["w_wd"],
        )

    def loss(self, draw: Draw, x: Any, y: Any) -> Tensor:
        return self.loss_at(list(draw.weights.values()), x, y)

    def loss_at(self, mixing: list[Tensor], x: Any, y: Any) -> Tensor:
        W1, W2, W3, b = self.weights
        x = tensor(x)

        def mixed(p: Tensor, z: Tensor) -> Tensor:
            return sum(w * f(z) for w, f in zip(p, OPERATIONS, strict=True))

        z = mixed(mixing[0], x @ W1) @ W2 + mixed(mixing[1], x @ W3)
        logits = sum(w * v for w, v in zip(mixing[2], (z, z.tanh(), 0.5 * z**2), strict=True)) + b
        return F.cross_entropy(logits, torch.tensor(y))

    def flat(self, tensors: Any) -> Tensor:
        return torch.cat([t.detach().flatten() for t in tensors])

    def noise(self, document: dict[str, Any], count: int = 1) -> Recorded:
        """Return the recorded noise of so many draws of every step, a row a label."""
        sizes, steps = [len(a) for a in self.alphas.values()], document["eps"]
        return Recorded([piece for draws in steps for row in draws[:count] for piece in tensor(row).split(sizes)])


def runs(document: dict[str, Any]) -> float:
    """Replay every run."""
    known = {name: run for name, run in document["runs"].items() if _replay_of(name) is not None}
    return largest(_replay_of(name)(document, run) for name, run in known.items())


def unknown(document: dict[str, Any]) -> list[str]:
    """Return runs that nothing replays."""
    return [f"runs/{name}" for name in document.get("runs", {}) if _replay_of(name) is None]


def _replay_of(name: str) -> Any:
    vadam = re.fullmatch(r"vadam_(first|second)_M(\d+)", name)
    return _RUNS.get(name) if vadam is None else _vadam(vadam[1], int(vadam[2]))


def _darts(order: str) -> Any:
    def replay(document: dict[str, Any], run: list[dict[str, Any]]) -> float:
        toy, hyper = Toy(document), document["hyper"]

        def adam(alphas: list[Tensor]) -> torch.optim.Optimizer:
            betas = tuple(hyper["arch_betas"])
            return torch.optim.Adam(alphas, lr=hyper["arch_lr"], betas=betas, weight_decay=hyper["arch_wd_adam"])

        return _searched(document, run, toy, Point(toy.alphas, optimizer=adam), Order(order=order))

    return replay


def _vadam_of(toy: Toy, document: dict[str, Any]) -> dict[str, Any]:
    hyper = document["hyper"]
    return {
        "lr": hyper["arch_lr"],
        "betas": tuple(hyper["arch_betas"]),
        "dataset_size": hyper["vadam"]["N"],
        "prior_precision": hyper["vadam"]["prior_prec"],
        "initial_precision": float(hyper["vadam"]["prec_init"]),
    }


def _vadam(order: str, count: int) -> Any:
    def replay(document: dict[str, Any], run: list[dict[str, Any]]) -> float:
        toy = Toy(document)
        distribution = Gaussian(toy.alphas, num_mc_samples=count, **_vadam_of(toy, document))
        distribution.noise = toy.noise(document, count)
        return _searched(document, run, toy, distribution, Order(order=order))

    return replay


def _second_order(
    toy: Toy, hyper: dict[str, Any], expected: dict[str, Any], batch: dict[str, Any], mean: list[Tensor]
) -> tuple[list[Tensor], float]:
    """Return the gradient of an architecture step, put together of the package's pieces, and their difference.

    Args:
        mean: alphas where w' and the direct gradient are taken; the implicit one is taken where the alphas are.
    """
    alphas, ((call,), count) = list(toy.alphas.values()), (expected["hvp_calls"], len(toy.alphas))
    train, val = (batch["xt"], batch["yt"]), (batch["xv"], batch["yv"])
    start, drawn = ([t.detach().clone() for t in tensors] for tensors in (toy.weights, alphas))

    def loss(data: Any) -> Tensor:
        return toy.loss_at([a.softmax(-1) for a in alphas], *data)

    put(alphas, mean)
    step = toy.host.virtual_step()
    put(toy.weights, unrolled_weights(toy.weights, gradients(loss(train), toy.weights), step))
    pairs = [(toy.flat(toy.weights), expected["unrolled_theta"])]
    both = gradients(loss(val), [*alphas, *toy.weights])
    put(toy.weights, start)
    put(alphas, drawn)
    scale = hyper["hvp_r"]
    implicit = finite_difference_hvp(lambda: loss(train), alphas, toy.weights, both[count:], scale=scale)
    norm = toy.flat(both[count:]).norm()
    pairs += [
        (toy.flat(both[count:]), call["vector"]),
        (norm, call["vector_norm"]),
        (scale / norm, call["R"]),
        (toy.flat(implicit), call["implicit_grads"]),
        (toy.flat(alphas), call["alpha_used"]),
    ]
    return [d - step.lr * i for d, i in zip(both, implicit, strict=False)], difference(*pairs)


def _searched(
    document: dict[str, Any], run: list[dict[str, Any]], toy: Toy, distribution: Distribution, order: Order
) -> float:
    search, off = Search(distribution, order), []
    for expected, batch in zip(run, document["batches"], strict=True):
        toy.host.train, toy.host.val = (batch["xt"], batch["yt"]), (batch["xv"], batch["yv"])
        if isinstance(distribution, Point) and "hvp_calls" in expected:
            mean = [a.detach().clone() for a in toy.alphas.values()]
            off.append(_second_order(toy, document["hyper"], expected, batch, mean)[1])
        search.iteration(toy.host, epoch=0, index=0)
        found = [
            (toy.flat([a.grad for a in toy.alphas.values()]), expected["alpha_grad_final"]),
            (toy.flat(toy.alphas.values()), expected["alpha_after"]),
            (toy.flat(toy.weights), expected["theta_after_weight_step"]),
        ]
        if isinstance(distribution, Point) and "unrolled_theta" in expected:
            found.append((toy.flat(toy.host.validated_at), expected["unrolled_theta"]))
        if "s" in expected:
            state = distribution.optimizer.state
            found.append((toy.flat([state[a]["s"] for a in toy.alphas.values()]), expected["s"]))
        off.append(difference(*found))
    return largest(off)


def _vadam_gradient_at_mean(document: dict[str, Any], run: list[dict[str, Any]]) -> float:
    """Replay the reference that takes the direct gradient at the mean, and only the finite difference at the draw.

    The paper expects both at the draw, and so does the package; the same pieces put together the reference's way.
    """
    toy, off = Toy(document), []
    alphas = list(toy.alphas.values())
    optimizer = VAdam(alphas, noise=toy.noise(document), **_vadam_of(toy, document))
    for expected, batch in zip(run, document["batches"], strict=True):
        mean = [a.detach().clone() for a in alphas]

        def closure(expected: Any = expected, batch: Any = batch, mean: Any = mean) -> None:
            found, difference_of_pieces = _second_order(toy, document["hyper"], expected, batch, mean)
            off.append(difference_of_pieces)
            for a, gradient in zip(alphas, found, strict=True):
                a.grad = gradient

        optimizer.step(closure)
        off.append(
            difference(
                (toy.flat([a.grad for a in alphas]), expected["alpha_grad_final"]),
                (toy.flat(alphas), expected["alpha_after"]),
                (toy.flat([optimizer.state[a]["s"] for a in alphas]), expected["s"]),
            )
        )
        toy.host.train = (batch["xt"], batch["yt"])
        mean_draw = Draw({}, {label: a.softmax(-1) for label, a in toy.alphas.items()})
        with toy.host.mixing(mean_draw):
            toy.host.step_weights(list)
        off.append(difference((toy.flat(toy.weights), expected["theta_after_weight_step"])))
    return largest(off)


def _hessian(document: dict[str, Any]) -> float:
    toy, expected, batch = Toy(document), document["runs"]["hessian"], document["batches"][0]
    alphas = list(toy.alphas.values())
    damping = document["hyper"]["arch_wd_adam"]

    def loss() -> Tensor:
        return toy.loss_at([a.softmax(-1) for a in alphas], batch["xv"], batch["yv"])

    H = architecture_hessian(loss, alphas, damping=damping)
    plain = toy.flat(gradients(loss(), alphas)) + damping * toy.flat(alphas)
    return difference(
        (H, expected["H"]),
        (torch.linalg.eigvalsh(H), sorted(expected["eigvals_sorted"])),
        (largest_eigenvalue(H), expected["ev_dominant_as_tracked"]),
        (plain, expected["grad_plus_wd"]),
    )


_RUNS = {
    "darts_first": _darts("first"),
    "darts_second": _darts("second"),
    "vadam_second_M1_gradient_at_mean": _vadam_gradient_at_mean,
    "hessian": lambda document, run: _hessian(document),
}
SECTIONS = {"runs": runs}

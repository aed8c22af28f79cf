"""SDARTS: radius, projection, perturbations step by step, and whole searches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.distributions import Draw
from balenas_plugin.distributions.point import Point
from balenas_plugin.perturbations import Evaluate, Perturbation, onto_simplex
from balenas_plugin.perturbations.adversarial import AdversarialPerturbation
from balenas_plugin.perturbations.random import RandomPerturbation
from balenas_plugin.search import Order, Search
from replays import difference, largest, put, tensor
from replays.hosts import Recorded, ToyHost, by_row, rows

INPUTS: set[str] = set()


class Toy(ToyHost):
    """The network of the file; `losses` and `tried` are what was computed in evaluation mode, and at which weights."""

    def __init__(self, W: Any, V: Any, *, clip: float = torch.inf, **sgd: Any) -> None:
        self.W, self.V = nn.Parameter(tensor(W)), nn.Parameter(tensor(V))
        self.bn = nn.BatchNorm1d(4, affine=False).double()
        self.losses: list[Tensor] = []
        self.tried: list[Tensor] = []
        super().__init__(self.loss_at, [self.W, self.V], clip=clip, **{"lr": 0.0, **sgd})

    def loss_at(self, draw: Draw, x: Any, y: Any) -> Tensor:
        A = torch.stack(list(draw.weights.values()))
        hidden = torch.einsum("ek,ekbh->bh", A, torch.tanh(tensor(x) @ self.W))
        loss = F.cross_entropy(self.bn(hidden) @ self.V, torch.tensor(y))
        if not self.bn.training:
            self.losses.append(loss.detach())
            self.tried.append(A.detach())
        return loss

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        self.bn.eval()
        yield
        self.bn.train()


class Clean(Perturbation):
    """What the reference does without a perturbation: it still counts the gradient in the mixing weights."""

    name = "clean"
    source = "the reference's `--perturb_alpha none`"

    def perturb(self, weights: Tensor, kept: Tensor, evaluate: Evaluate) -> Tensor:
        return weights


KINDS = {"random": RandomPerturbation, "pgd_linf": AdversarialPerturbation, "none": Clean}


def epsilon_schedule(document: dict[str, Any]) -> float:
    """Replay the radius of whole searches."""
    off = []
    for case in document["epsilon_schedule"]:
        perturbation, found = RandomPerturbation(), []
        for epoch in range(len(case["epsilon"])):
            perturbation.new_epoch(epoch, case["epochs"])
            found.append(perturbation.epsilon)
        off.append(difference((found, case["epsilon"])))
    return largest(off)


def simplex_clip(document: dict[str, Any]) -> float:
    """Replay the projection."""
    return largest(_projected(case["in"], case["out"]) for case in document["simplex_clip"])


def _projected(before: Any, after: Any) -> float:
    given = tensor(before)
    return difference((onto_simplex(given, torch.ones_like(given, dtype=torch.bool)), after))


def random_perturbations(document: dict[str, Any]) -> float:
    """Replay single random perturbations."""
    return largest(_perturbed(case, RandomPerturbation()) for case in document["random_perturbations"])


def pgd_perturbations(document: dict[str, Any]) -> float:
    """Replay single attacks: the loss at every step, and whether the attack was dropped."""
    return largest(
        _perturbed(case, AdversarialPerturbation(steps=case["steps"], random_start=case["random_start"]))
        for case in document["pgd_perturbations"]
    )


def _perturbed(case: dict[str, Any], perturbation: RandomPerturbation) -> float:
    """Make a weight step of length 0: the draw that it used is the perturbed one."""
    toy = Toy(case["W"], case["V"])
    put(toy.bn.buffers(), [*case["bn_running"].values(), 0])
    toy.train = case["x"], case["y"]
    perturbation.epsilon, perturbation.noise = case["epsilon"], Recorded(tensor(case["noise"]))
    attacked = []

    def step_weights(_: Any) -> None:
        attacked.append(rows(toy.draw.weights))

    toy.step_weights = step_weights  # so that the batch-norm statistics are those after the attack
    Search(Point(by_row(case["alpha"])), Order(), perturbation).weight_step(toy)
    pairs = [
        (attacked[0], case["weights_perturbed"]),
        (toy.bn.training, case["training_after"]),
        (toy.bn.running_mean, case["bn_running_after"]["running_mean"]),
        (toy.bn.running_var, case["bn_running_after"]["running_var"]),
    ]
    clips = case["clips"]
    if "losses_in_order" in case:
        clean = tensor(case["alpha"]).softmax(-1)
        start = [] if case["random_start"] else [clean]
        pairs += [
            (torch.stack(toy.losses), case["losses_in_order"]),
            (torch.stack(toy.tried), torch.stack([clean, *start, *(tensor(c["after"]) for c in clips)])),
            (torch.equal(attacked[0], toy.tried[0]), case["reverted"]),
            (2 * perturbation.epsilon / case["steps"], case["step_size"]),
            (toy.losses[0], case["loss_before"]),
            (toy.losses[-1], case["loss_after"]),
            ([False] * len(toy.losses), case["loss_modes_train"]),
        ]
    return max(difference(*pairs), largest(_projected(c["before"], c["after"]) for c in clips))


def search(name: str) -> Any:
    """Return the replay of a search."""

    def replay(document: dict[str, Any]) -> float:
        record = document[name]
        hyper, adam = record["hyper"], record["hyper"]["alpha_adam"]
        toy = Toy(record["init"]["W"], record["init"]["V"], clip=hyper["grad_clip_norm"], **hyper["weights_sgd"])
        distribution = Point(
            by_row(record["init"]["alpha"]),
            optimizer=lambda alphas: torch.optim.Adam(alphas, **{**adam, "betas": tuple(adam["betas"])}),
        )
        options = {} if record["kind"] == "none" else {"epsilon_max": hyper["epsilon_max"]}
        perturbation = KINDS[record["kind"]](**options)
        run = Search(distribution, Order(clip_with="architecture"), perturbation)
        return largest(_step(row, toy, run, hyper["epochs"]) for row in record["steps"])

    return replay


def _step(row: dict[str, Any], toy: Toy, run: Search, epochs: int) -> float:
    toy.train, toy.val = (row["x_train"], row["y_train"]), (row["x_val"], row["y_val"])
    toy.losses, toy.tried = [], []
    run.new_epoch(row["epoch"], epochs)
    run.perturbation.noise = Recorded(tensor(row["noise"]))
    train_loss, val_loss = run.iteration(toy, epoch=row["epoch"], index=0)
    parameters = run.distribution.parameters
    gradients = torch.nn.utils.get_total_norm([w.grad for w in toy.network_weights])
    clipped = min(1.0, toy.clip / (toy.norm + 1e-6))
    pairs = [
        (val_loss, row["arch_loss_val"]),
        (rows({label: a.grad for label, a in parameters.items()}), row["alpha_grad"]),
        (rows(parameters), row["alpha_after_arch_step"]),
        (rows(toy.draw.weights), row["weights_used_in_weight_step"]),
        (train_loss, row["train_loss"]),
        (toy.norm, row["grad_norm_all_params"]),
        (gradients / clipped, row["grad_norm_weights_only"]),
        (toy.W, row["W"]),
        (toy.V, row["V"]),
        (toy.bn.running_mean, row["bn_running_mean"]),
        (toy.bn.running_var, row["bn_running_var"]),
    ]
    if isinstance(run.perturbation, RandomPerturbation):
        pairs.append((run.perturbation.epsilon, row["epsilon"]))
    if "attack_losses" in row:
        reverted = torch.equal(rows(toy.draw.weights), toy.tried[0])
        pairs += [(torch.stack(toy.losses), row["attack_losses"]), (reverted, row["reverted"])]
    return difference(*pairs)


SEARCHES = ("search_random", "search_adv", "search_adv_clipped", "search_plain_darts")
SECTIONS = {
    "epsilon_schedule": epsilon_schedule,
    "simplex_clip": simplex_clip,
    "random_perturbations": random_perturbations,
    "pgd_perturbations": pgd_perturbations,
    **{name: search(name) for name in SEARCHES},
}

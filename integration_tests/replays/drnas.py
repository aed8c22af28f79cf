"""DrNAS's distribution and discretisation; its partial channels and widening are not replayed yet."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.bayes.decisions import strongest_edges
from balenas_plugin.distributions import Draw
from balenas_plugin.distributions.dirichlet import Dirichlet
from balenas_plugin.search import Order, Search
from balenas_plugin.search_spaces.nasbench201 import format_string
from replays import difference, largest, tensor
from replays.hosts import Recorded, ToyHost, by_row, rows

INPUTS: set[str] = set()


def kept(distribution: Dirichlet, mask: Any) -> None:
    """Drop what a mask leaves out."""
    for label, row in zip(distribution.parameters, mask, strict=True):
        distribution.keep(label, torch.tensor(row).nonzero().flatten().tolist())


def pathwise_gradient(document: dict[str, Any]) -> float:
    """Replay the gradient through a draw."""
    return largest(_pathwise(case) for case in document["pathwise_gradient"])


def pathwise_gradient_masked(document: dict[str, Any]) -> float:
    """Replay it with dropped operations."""
    return largest(_pathwise(case) for case in document["pathwise_gradient_masked"])


def _pathwise(case: dict[str, Any]) -> float:
    distribution = Dirichlet(by_row([case["eta"]]))
    if case["mask"] is not None:
        mask = {"000": torch.tensor(case["mask"])}
        distribution.load_state_dict({**distribution.state_dict(), "mask": mask})  # `keep` would set dropped eta to 0
    distribution.noise = Recorded([tensor(case["sample"])])
    draw = distribution.sample()
    gradient = draw.pull_back({"000": tensor(case["cotangent"])})
    return difference((draw.weights["000"], case["mixing_weights"]), (gradient["000"], case["eta_grad"]))


def kl_regulariser(document: dict[str, Any]) -> float:
    """Replay the anchor by divergence."""
    off = []
    for case in document["kl_regulariser"]:
        distribution = Dirichlet(by_row(case["eta"]), anchor="kl", anchor_scale=case["reg_scale"])
        value, gradient = distribution.regulariser()
        off.append(difference((value, case["kl_regulariser"]), (rows(gradient), case["grad"])))
    return largest(off)


def pruning(document: dict[str, Any]) -> float:
    """Replay two prunings in a row."""
    off = []
    for case in document["pruning"]:
        distribution = Dirichlet(by_row(case["eta"]))
        for which in ("first", "second"):
            if which == "second":  # what training did to the dropped eta has no effect
                for p, row in zip(distribution.parameters.values(), case["eta_before_second"], strict=True):
                    p.data.copy_(tensor(row))
            distribution.keep_best(case[f"keep_{which}"])
            off.append(
                difference(
                    (rows(distribution.mask), case[f"mask_{which}"]),
                    (rows(distribution.parameters), case[f"eta_{which}"]),
                )
            )
    return largest(off)


def search(name: str) -> Any:
    """Return the replay of a search."""

    def replay(document: dict[str, Any]) -> float:
        record = document[name]
        hyper, adam = record["hyper"], record["hyper"]["eta_adam"]
        W, V = (nn.Parameter(tensor(record["init"][key])) for key in "WV")
        norm = nn.BatchNorm1d(4, affine=False).double()

        def loss(draw: Draw, x: Any, y: Any) -> Tensor:
            hidden = sum(
                weight * torch.tanh(tensor(x) @ W[e, k])
                for e, row in enumerate(draw.weights.values())
                for k, weight in enumerate(row)
                if weight != 0
            )
            return F.cross_entropy(norm(hidden) @ V, torch.tensor(y))

        distribution = Dirichlet(
            by_row(record["init"]["eta"]),
            anchor=hyper["reg_type"],
            anchor_scale=hyper["reg_scale"],
            lr=adam["lr"],
            betas=tuple(adam["betas"]),
        )
        host = ToyHost(loss, [W, V], clip=hyper["grad_clip_norm"], **hyper["weights_sgd"])
        progressive = "progressive" in hyper["script"]
        run = Search(
            distribution,
            Order(weight_step="sample", clip_with="architecture", warmup_epochs=10 if progressive else 0),
        )
        return largest(_step(row, distribution, host, run, W, V) for row in record["steps"])

    return replay


def _step(
    row: dict[str, Any], distribution: Dirichlet, host: ToyHost, run: Search, W: nn.Parameter, V: nn.Parameter
) -> float:
    host.train, host.val = (row["x_train"], row["y_train"]), (row["x_val"], row["y_val"])
    drawn = (*(row["dirichlet_samples_arch_step"] or ()), *row["dirichlet_samples_weight_step"])
    distribution.noise = Recorded([tensor(sample) for sample in drawn])
    train_loss, val_loss = run.iteration(host, epoch=row["epoch_argument"], index=0)
    pairs = [
        (train_loss, row["train_loss"]),
        (host.norm, row["grad_norm_all_params"]),
        (rows(host.draw.weights), row["mixing_weights_weight_step"]),
        (rows(distribution.parameters), row["eta"]),
        (W, row["W"]),
        (V, row["V"]),
    ]
    if (val_loss is not None) != row["arch_step_done"]:
        return float("inf")
    if val_loss is not None:
        gradients = {label: p.grad for label, p in distribution.parameters.items()}
        pairs += [(val_loss, row["arch_loss_val_with_regulariser"]), (rows(gradients), row["eta_grad"])]
    if "pruned" in row:
        distribution.keep_best(row["pruned"]["num_keep"])
        pairs += [
            (rows(distribution.mask), row["pruned"]["mask"]),
            (rows(distribution.parameters), row["pruned"]["eta_after_pruning"]),
        ]
    return difference(*pairs)


def genotype_201(document: dict[str, Any]) -> float:
    """Replay the argmax of every edge among what is kept."""
    off = []
    for case in document["genotype_201"]:
        distribution = Dirichlet(by_row(case["eta"]))
        if case["mask"] is not None:
            kept(distribution, case["mask"])
        found = format_string([int(row.argmax()) for row in distribution.scores().values()])
        off.append(float(found != case["string"]))
    return largest(off)


def genotype_darts(document: dict[str, Any]) -> float:
    """Replay the DARTS space's rule on the softmax of eta, and on the Dirichlet mean."""
    off = []
    for case in document["genotype_darts"]:
        for kind in ("normal", "reduce"):
            eta = tensor(case[f"eta_{kind}"])
            means = list(rows(Dirichlet(by_row(eta)).mean().weights))
            for edges, suffix in ((list(eta.softmax(-1)), ""), (means, "_if_ranked_by_dirichlet_mean")):
                cell, start = [], 0
                for node in range(4):
                    pairs = strongest_edges(edges[start : start + node + 2], 2)
                    cell += [[case["ops"][operation], source] for source, operation in pairs]
                    start += node + 2
                off.append(float(cell != case[kind + suffix]))
    return largest(off)


SEARCHES = ("search_l2", "search_kl", "search_l2_clipped", "search_progressive")
SECTIONS = {
    "pathwise_gradient": pathwise_gradient,
    "pathwise_gradient_masked": pathwise_gradient_masked,
    "kl_regulariser": kl_regulariser,
    "pruning": pruning,
    **{name: search(name) for name in SEARCHES},
    "genotype_201": genotype_201,
    "genotype_darts": genotype_darts,
}

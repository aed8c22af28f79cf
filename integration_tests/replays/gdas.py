"""GDAS, and NNI's GumbelDARTS beside it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.distributions import Draw
from balenas_plugin.distributions.gumbel import GumbelSoftmax, HardGumbelSoftmax
from balenas_plugin.mixed_ops.drawn_path import drawn_path
from balenas_plugin.search import Order, Search
from balenas_plugin.search.discretise import best_pairs
from balenas_plugin.search_spaces.nasbench201 import format_string
from replays import difference, largest, tensor
from replays.hosts import Recorded, ToyHost, by_row, rows

INPUTS = {"forward_gdas_v1"}
CELL_EDGES = ((1, 0), (2, 0), (2, 1))


class Toy:
    """Two cells of three nodes; each weight W[cell, edge, i] is a parameter of its own."""

    def __init__(self, W: Any, V: Any) -> None:
        self.W = [[[nn.Parameter(tensor(w)) for w in edge] for edge in cell] for cell in W]
        self.V = nn.Parameter(tensor(V))
        self.norm = nn.BatchNorm1d(4, affine=False).double()
        self.computed = 0

    def parameters(self) -> list[nn.Parameter]:
        return [*(w for cell in self.W for edge in cell for w in edge), self.V]

    def logits(self, draw: Draw, x: Tensor) -> Tensor:
        labels = list(draw.weights)
        for cell in self.W:
            nodes = [x]
            for node in (1, 2):
                total = torch.zeros(())
                for e, (target, source) in enumerate(CELL_EDGES):
                    if target == node:
                        total = total + self._edge(cell[e], draw, labels[e], nodes[source])
                nodes.append(total)
            x = nodes[-1]
        return self.norm(x) @ self.V

    def _edge(self, weights: list[nn.Parameter], draw: Draw, label: str, x: Tensor) -> Tensor:
        def run(k: int) -> Tensor:
            self.computed += 1
            return (x * 0, x, *(torch.tanh(x @ w) for w in weights))[k]

        return drawn_path(draw.weights[label], draw.chosen[label], run)

    def loss(self, draw: Draw, x: Any, y: Any) -> Tensor:
        return F.cross_entropy(self.logits(draw, tensor(x)), torch.tensor(y))


def recorded(draws: Any) -> Recorded:
    """Return the exponentials of draws: of each, a row a label."""
    return Recorded([row for draw in draws for row in tensor(draw)])


def sampling(document: dict[str, Any]) -> float:
    """Replay single draws, a rejected one among them, and their gradients."""
    return largest(_sampled(case) for case in document["sampling"])


def _sampled(case: dict[str, Any]) -> float:
    distribution = HardGumbelSoftmax(by_row(case["alpha"]), temperature=case["tau"])
    distribution.noise = recorded(case["exponentials"])
    toy, draw = Toy(case["W"], case["V"]), distribution.sample()
    logits = toy.logits(draw, tensor(case["x"]))
    loss = F.cross_entropy(logits, torch.tensor(case["y"]))
    found = dict(zip(draw.weights, torch.autograd.grad(loss, list(draw.weights.values())), strict=True))
    return difference(
        (rows(draw.weights), case["hardwts"]),
        (list(draw.chosen.values()), case["index"]),
        (logits, case["logits"]),
        (loss, case["loss"]),
        (toy.computed, case["op_forward_calls"]),
        (rows(found), case["grad_hardwts"]),
        (rows(draw.pull_back(found)), case["grad_alpha"]),
    )


def nasnet_mixed_op(document: dict[str, Any]) -> float:
    """Replay the form in which candidates that were not drawn get no gradient."""
    off = []
    for case in document["nasnet_mixed_op"]:
        weights, x = tensor(case["weights"]).requires_grad_(), tensor(case["x"])
        W = tensor(case["W"])
        output = drawn_path(
            weights,
            case["index"],
            lambda k, x=x, W=W: (x * 0, x, *(torch.tanh(x @ w) for w in W))[k],
            others="none",
        )
        (gradient,) = torch.autograd.grad(output, weights, tensor(case["cotangent"]))
        off.append(difference((output, case["output"]), (gradient, case["grad_weights"])))
    return largest(off)


def genotype_nasnet(document: dict[str, Any]) -> float:
    """Replay the discretisation by the best (operation, input) pairs of a node."""
    off = []
    for case in document["genotype_nasnet"]:
        for kind in ("normal", "reduce"):
            alpha = dict(zip(case["edge_order"], tensor(case[f"alpha_{kind}"]), strict=True))
            cell = []
            for node in range(len(case[kind])):
                edges = [row for edge, row in alpha.items() if edge.startswith(f"{node}<-")]
                pairs = best_pairs(edges, 2, without=case["ops"].index("none"))
                cell.append([[case["ops"][operation], source] for source, operation in pairs])
            off.append(float(cell != case[kind]))
        cells = [*case["normal"], *case["reduce"]]
        twice = any(len({source for _, source in node}) < len(node) for node in cells)
        off.append(float(twice != case["a_node_uses_one_edge_twice"]))
        off.append(float(case["concat"] != [node + 2 for node in range(len(case["normal"]))]))
    return largest(off)


def genotype_201(document: dict[str, Any]) -> float:
    """Replay the argmax of every edge."""
    off = []
    for case in document["genotype_201"]:
        scores = HardGumbelSoftmax(by_row(case["alpha"])).scores().values()
        off.append(float(format_string([int(row.argmax()) for row in scores]) != case["string"]))
    return largest(off)


def search(document: dict[str, Any]) -> float:
    """Replay a search: weights first, each level with a draw of its own."""
    record = document["search"]
    hyper, adam = record["hyper"], record["hyper"]["alpha_adam"]
    toy = Toy(record["init"]["W"], record["init"]["V"])
    distribution = HardGumbelSoftmax(
        by_row(record["init"]["alpha"]),
        temperature=(hyper["tau_max"], hyper["tau_min"]),
        optimizer=lambda alphas: torch.optim.Adam(alphas, **{**adam, "betas": tuple(adam["betas"])}),
    )
    host = ToyHost(toy.loss, toy.parameters(), clip=hyper["grad_clip_norm"], **hyper["weights_sgd"])
    run = Search(distribution, Order(first="weights", weight_step="sample", clip_with="stale-architecture"))
    off = []
    epochs = 1 + max(row["epoch"] for row in record["steps"])
    for row in record["steps"]:
        distribution.new_epoch(row["epoch"], epochs)
        distribution.noise = recorded(row["exponentials"])
        host.train, host.val = (row["x_train"], row["y_train"]), (row["x_val"], row["y_val"])
        train_loss, val_loss = run.iteration(host, epoch=row["epoch"], index=0)
        gradients = {label: a.grad for label, a in distribution.parameters.items()}
        off.append(
            difference(
                (distribution.temperature, row["tau"]),
                (train_loss, row["train_loss"]),
                (val_loss, row["arch_loss_val"]),
                (host.norm, row["grad_norm_weight_step_all_params"]),
                (list(host.draws["training"].chosen.values()), row["index_weight_step"]),
                (list(host.draws["validation"].chosen.values()), row["index_arch_step"]),
                (rows(gradients), row["alpha_grad"]),
                (rows(distribution.parameters), row["alpha"]),
                (torch.stack([w for cell in toy.W for edge in cell for w in edge]), _flat(row["W"])),
                (toy.V, row["V"]),
            )
        )
    return largest(off)


def _flat(W: Any) -> list[Any]:
    return [w for cell in W for edge in cell for w in edge]


def tau_schedule(document: dict[str, Any]) -> float:
    """Replay the temperatures of whole searches."""
    return largest(
        _temperatures(case["tau"], (case["tau_max"], case["tau_min"]), case["epochs"])
        for case in document["tau_schedule"]
    )


def _temperatures(expected: list[float], ends: tuple[float, float], epochs: int, **options: Any) -> float:
    distribution = GumbelSoftmax(by_row([[0.0, 0.0]]), temperature=ends, **options)
    found = []
    for epoch in range(len(expected)):
        distribution.new_epoch(epoch, epochs)
        found.append(distribution.temperature)
    return difference((found, expected))


def nni_gumbel_darts(document: dict[str, Any]) -> float:
    """Replay NNI's soft samples, and its schedule, which ends a step above the last temperature."""
    record = document["nni_gumbel_darts"]
    return max(
        largest(_relaxed(case) for case in record["gumbel_softmax"]),
        largest(
            _temperatures(case["tau"], (case["init"], case["min"]), case["total"], reaches_last=False)
            for case in record["temperature"]
        ),
    )


def _relaxed(case: dict[str, Any]) -> float:
    kind = HardGumbelSoftmax if case["hard"] else GumbelSoftmax
    distribution = kind(by_row([case["alpha"]]), temperature=case["tau"])
    distribution.noise = Recorded([tensor(e) for e in case["exponentials"]])
    draw = distribution.sample()
    gradient = draw.pull_back({"000": tensor(case["cotangent"])})
    return difference((draw.weights["000"], case["weights"]), (gradient["000"], case["grad_alpha"]))


SECTIONS = {
    "sampling": sampling,
    "nasnet_mixed_op": nasnet_mixed_op,
    "genotype_nasnet": genotype_nasnet,
    "genotype_201": genotype_201,
    "search": search,
    "tau_schedule": tau_schedule,
    "nni_gumbel_darts": nni_gumbel_darts,
}

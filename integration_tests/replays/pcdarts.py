"""PC-DARTS: channel shuffle, the edge's operation, discretisation by products, and a search with edge weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.bayes.decisions import CellNode
from balenas_plugin.bayes.laws import GumbelLaw
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.distributions import Draw
from balenas_plugin.distributions.point import Point
from balenas_plugin.mixed_ops.channels import channel_shuffle
from balenas_plugin.mixed_ops.edge_weights import EdgeWeights
from balenas_plugin.mixed_ops.partial_channels import PartialChannels
from balenas_plugin.search import Order, Search
from replays import difference, largest, tensor
from replays.darts_operations import operations
from replays.hosts import ToyHost, by_row, rows

INPUTS: set[str] = set()


def shuffled(document: dict[str, Any]) -> float:
    """Replay the order of the channels."""
    off = []
    for case in document["channel_shuffle"]:
        found = channel_shuffle(torch.arange(case["channels"])[None], case["groups"])[0]
        off.append(difference((found, case["order_of_input_channels_in_output"])))
    return largest(off)


def mixed_op(name: str, *, k: int, shuffle: bool = True) -> Any:
    """Return the replay of an edge and its gradients."""

    def replay(document: dict[str, Any]) -> float:
        return largest(_edge(case, PartialChannels(k=case["K"] or k, shuffle=shuffle)) for case in document[name])

    return replay


def _edge(case: dict[str, Any], how: PartialChannels) -> float:
    whole = operations(case["ops"], case["C"], case["stride"])
    candidates = how.build(whole, called="edge")
    assert candidates is not None
    layers = nn.ModuleList(candidates.values()).double()
    layers.load_state_dict(named(case["state"]), strict=False)
    x, weights = tensor(case["x"]).requires_grad_(), tensor(case["weights"]).requires_grad_()
    output = how.edge(x, list(layers), weights)
    (output * tensor(case["cotangent"])).sum().backward()
    return difference(
        (output, case["output_train_mode"]), (x.grad, case["grad_x"]), (weights.grad, case["grad_weights"])
    )


def named(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return a reference's state with names of `operations`: _ops.4.op.1.weight is 4.1.weight there."""
    return {key.removeprefix("_ops.").replace(".op.", "."): tensor(value) for key, value in state.items()}


def genotype(document: dict[str, Any]) -> float:
    """Replay the two best inputs of every node, with and without the weights of edges."""
    off = []
    for case in document["genotype"]:
        for kind in ("normal", "reduce"):
            alphas, betas = tensor(case[f"alphas_{kind}"]), tensor(case[f"betas_{kind}"])
            alphas = torch.cat([alphas[:, 1:], alphas[:, :1]], 1)  # none last
            for suffix in ("", "_without_beta"):
                cell, start = [], 0
                for node in range(2, 6):
                    b = (0 * betas if suffix else betas)[start : start + node].log_softmax(-1)
                    logits = {f"{j}": alphas[start + j] for j in range(node)}
                    decision = CellNode(
                        "cell", node, tuple(logits), 2, (tuple(case["ops"][1:]),) * node, tuple(b.tolist())
                    )
                    posterior = Posterior.of({label: GumbelLaw(a) for label, a in logits.items()}, kind="point")
                    found = decision.to_architecture(decision.choose(logits), posterior)
                    cell += [[found[f"cell/op_{node}_{i}"], *found[f"cell/input_{node}_{i}"]] for i in range(2)]
                    start += node
                off.append(float(cell != case[kind + suffix]))
        alike = all(case[kind] == case[f"{kind}_without_beta"] for kind in ("normal", "reduce"))
        off.append(float(alike != case["same"] or case["concat"] != [2, 3, 4, 5]))
    return largest(off)


def search(document: dict[str, Any]) -> float:
    """Replay a search across the end of its warm-up."""
    record = document["search"]
    init, hyper = record["init"], record["hyper"]
    W = {kind: nn.Parameter(tensor(init[f"W_{kind}"])) for kind in ("normal", "reduce")}
    V, given = nn.Parameter(tensor(init["V"])), init["arch_parameters"]
    betas = {kind: nn.Parameter(tensor(given[f"betas_{kind}"])) for kind in ("normal", "reduce")}
    alphas = by_row([*given["alphas_normal"], *given["alphas_reduce"]])

    def cell(kind: str, inputs: list[Tensor], weights: list[Tensor]) -> Tensor:
        nodes, edge = inputs, 0
        for node in (2, 3):
            b = betas[kind][edge : edge + node].softmax(-1)
            each = [
                sum(w * torch.tanh(nodes[j] @ W[kind][edge + j, o]) for o, w in enumerate(weights[edge + j][1:]))
                for j in range(node)
            ]
            nodes = [*nodes, sum(scale * made for scale, made in zip(b, each, strict=True))]
            edge += node
        return nodes[-1]

    def loss(draw: Draw, x: Any, y: Any) -> Tensor:
        given, x = list(draw.weights.values()), tensor(x)
        normal = cell("normal", [x, x], given[:5])
        return F.cross_entropy(cell("reduce", [x, normal], given[5:]) @ V, torch.tensor(y))

    adam = {key: hyper["arch_adam"][key] for key in ("lr", "weight_decay")} | {
        "betas": tuple(hyper["arch_adam"]["betas"])
    }
    host = ToyHost(loss, [*W.values(), V], clip=hyper["grad_clip_norm"], **hyper["weights_sgd"])
    run = Search(Point(alphas, **adam), Order(warmup_epochs=15), None, PartialChannels(edge_normalization=True))
    run.edges = EdgeWeights(betas, **adam)

    def step(row: dict[str, Any]) -> float:
        host.train, host.val = (row["x_train"], row["y_train"]), (row["x_val"], row["y_val"])
        train_loss, val_loss = run.iteration(host, epoch=row["epoch"], index=0)
        if (val_loss is not None) != row["arch_step_done"]:
            return float("inf")
        logits, expected, used = rows(run.distribution.parameters), row["arch_parameters"], rows(host.draw.weights)
        pairs: list[Any] = [(train_loss, row["train_loss"]), (host.norm, row["grad_norm"]), (V, row["V"])]
        for kind, of_kind in (("normal", slice(5)), ("reduce", slice(5, None))):
            b = betas[kind]
            pairs += [
                (W[kind], row[f"W_{kind}"]),
                (logits[of_kind], expected[f"alphas_{kind}"]),
                (b, expected[f"betas_{kind}"]),
                (used[of_kind], row[f"op_weights_{kind}"]),
                (torch.cat([b[:2].softmax(-1), b[2:].softmax(-1)]), row[f"edge_weights_{kind}"]),
            ]
            if val_loss is not None:
                gradients = torch.stack([p.grad for p in alphas.values()])[of_kind]
                pairs += [(gradients, row["grads"][f"alphas_{kind}"]), (b.grad, row["grads"][f"betas_{kind}"])]
        return difference(*pairs, *([] if val_loss is None else [(val_loss, row["arch_loss_val"])]))

    return largest(step(row) for row in record["steps"])


SECTIONS = {
    "channel_shuffle": shuffled,
    "mixed_op": mixed_op("mixed_op", k=4),
    "mixed_op_imagenet": mixed_op("mixed_op_imagenet", k=2),
    "mixed_op_random": mixed_op("mixed_op_random", k=4, shuffle=False),
    "genotype": genotype,
    "search": search,
}

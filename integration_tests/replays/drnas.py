"""DrNAS: its distribution, discretisation, partial channels and widening."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.bayes.decisions import strongest_edges
from balenas_plugin.distributions import Draw
from balenas_plugin.distributions.dirichlet import Dirichlet, concentration
from balenas_plugin.mixed_ops.channels import Copies, widen
from balenas_plugin.mixed_ops.partial_channels import PartialChannels
from balenas_plugin.schedules import Keep, Seen
from balenas_plugin.schedules.drnas_progressive import DrNASProgressive
from balenas_plugin.search import Order, Search
from balenas_plugin.search_spaces import NONE, PARAMETER_FREE, PARAMETRIC, SKIP
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
    return difference(
        (concentration(tensor(case["eta"])), case["concentration"]),
        (draw.weights["000"], case["mixing_weights"]),
        (gradient["000"], case["eta_grad"]),
    )


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
        schedule, mixed_op = None, None
        if "progressive" in hyper["script"]:
            schedule = stages_of([row["pruned"]["num_keep"] for row in record["steps"] if "pruned" in row])
            mixed_op = PartialChannels(k=schedule.channels[0])
        order = Order(weight_step="sample", clip_with="architecture")
        run = Search(distribution, order, mixed_op=mixed_op, schedule=schedule)
        return largest(_step(row, distribution, host, run, W, V) for row in record["steps"])

    return replay


EPOCHS, FROZEN = 50, 10
"""Of each stage of the progressive search; a row's epoch is that within its stage."""

KINDS = {f"{edge:03d}": [NONE, SKIP, PARAMETRIC, PARAMETRIC, PARAMETER_FREE] for edge in range(9)}


def stages_of(kept: list[int]) -> DrNASProgressive:
    """Return the schedule that keeps so many operations in each stage but the first."""
    stages = len(kept) + 1
    schedule = DrNASProgressive(
        channels=[2**k for k in reversed(range(stages))],
        kept=kept,
        stage_epochs=[EPOCHS] * stages,
        frozen_epochs=FROZEN,
    )
    schedule.begin(EPOCHS * stages, KINDS, None)
    return schedule


def _step(
    row: dict[str, Any], distribution: Dirichlet, host: ToyHost, run: Search, W: nn.Parameter, V: nn.Parameter
) -> float:
    host.train, host.val = (row["x_train"], row["y_train"]), (row["x_val"], row["y_val"])
    drawn = (*(row["dirichlet_samples_arch_step"] or ()), *row["dirichlet_samples_weight_step"])
    distribution.noise = Recorded([tensor(sample) for sample in drawn])
    stage = 0 if run.schedule is None else sum(isinstance(edit, Keep) for _, edit in run.schedule.log)
    train_loss, val_loss = run.iteration(host, epoch=EPOCHS * stage + row["epoch_argument"], index=0)
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
        pairs += [
            (val_loss, row["arch_loss_val_with_regulariser"]),
            (rows(gradients), row["eta_grad"]),
            (rows(host.draws["validation"].weights), row["mixing_weights_arch_step"]),
        ]
    if "pruned" in row:
        assert run.schedule is not None
        kinds = {label: KINDS[label] for label in distribution.parameters}
        seen = Seen(epoch=EPOCHS * (stage + 1) - 1, scores=distribution.scores(), kinds=kinds)
        keep, widen = run.schedule.after(seen)
        assert isinstance(keep, Keep)
        for label, indices in keep.labels.items():
            distribution.keep(label, indices)
        run.schedule.made(seen.epoch, (keep, widen))
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
        alike = all(case[kind] == case[f"{kind}_if_ranked_by_dirichlet_mean"] for kind in ("normal", "reduce"))
        off.append(float(alike != case["same"] or case["concat"] != [2, 3, 4, 5]))
    return largest(off)


def wider_functions(document: dict[str, Any]) -> float:
    """Replay the widening of a convolution's inputs and outputs, and of the batch-norm behind it."""
    off = []
    for case in document["wider_functions"]:
        conv, norm = tensor(case["conv"]), case["bn"]
        layers = nn.Sequential(nn.Conv2d(conv.shape[1], len(conv), 3, bias=False), nn.BatchNorm2d(len(conv))).double()
        layers.load_state_dict({"0.weight": conv, **{f"1.{key}": tensor(value) for key, value in norm.items()}})
        widen(layers, k=2, new_k=1, copies=recorded([case["in_index"], case["out_index"]]))
        after, expected = layers.state_dict(), {f"1.{key}": value for key, value in case["bn_wider"].items()}
        expected["0.weight"] = case["conv_out_wider"]
        pairs = [(after[key], value) for key, value in expected.items()]
        off.append(difference((after["0.weight"][: len(conv)], case["conv_in_wider"]), *pairs))
    return largest(off)


def recorded(indices: list[list[int]]) -> Copies:
    """Return the copied channels of a reference run, one list a call."""
    remaining = iter(indices)
    return lambda channels, added: torch.tensor(next(remaining))


def partial_cell(document: dict[str, Any]) -> float:
    """Replay a cell of partial channels: a step of its weights, then wider, with its momentum."""
    record = document["partial_cell"]
    x, names, k = tensor(record["x"]), record["edge_order"], record["k_before"]
    mixed_op = PartialChannels(k=k)
    edges = {name: Edge(mixed_op.build(operations(x.shape[1]), called=name)) for name in names}
    weights = dict(zip(names, tensor(record["mixing_weights"]), strict=True))
    for key, value in record["state_before"].items():
        place(edges, key).copy_(tensor(value))

    def output() -> Tensor:
        nodes = [x]
        for target in range(1, 4):
            sources = [(nodes[j], f"{target}<-{j}") for j in range(target)]
            nodes.append(sum(mixed_op.edge(node, edges[e].operations, weights[e]) for node, e in sources))
        return nodes[-1]

    def states(when: str) -> list[tuple[Any, Any]]:
        return [(place(edges, key), value) for key, value in record[f"state_{when}"].items()]

    def momenta(when: str) -> list[tuple[Any, Any]]:
        buffers = record[f"momentum_{when}"].items()
        return [(sgd.state[place(edges, key, leaf=True)]["momentum_buffer"], value) for key, value in buffers]

    pairs = [(output(), record["output_k4_train_mode"]), *states("after_forward")]
    off = [difference(*pairs)]
    sgd = torch.optim.SGD(
        [p for e in edges.values() for p in e.parameters()], lr=0.025, momentum=0.9, weight_decay=3e-4
    )
    (output() ** 2).sum().backward()
    sgd.step()
    off.append(difference(*states("before_widening"), *momenta("before_widening")))
    mixed_op.k = record["k_after"]
    for entry in record["indices"]:
        copies = recorded([entry["in_index"], entry["out_index"]])
        operation = edges[entry["edge"]].operations[entry["op"]]
        widen(operation, k=k, new_k=mixed_op.k, copies=copies, optimizers=[sgd])
    off.append(difference(*states("after_widening"), *momenta("after_widening")))
    return largest([*off, difference((output(), record["output_k2_train_mode"]))])


class Edge(nn.Module):
    """The operations of an edge."""

    def __init__(self, candidates: dict[str, nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(candidates.values()).double()


def operations(channels: int) -> dict[str, nn.Module]:
    """Return NAS-Bench-201's operations as the reference's search has them, without affine batch-norm."""

    def convolution(size: int) -> nn.Module:
        layer = nn.Conv2d(channels, channels, size, padding=size // 2, bias=False)
        return nn.Sequential(nn.ReLU(), layer, nn.BatchNorm2d(channels, affine=False))

    pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return {"none": Zero(), "skip": nn.Identity(), "1x1": convolution(1), "3x3": convolution(3), "pool": pool}


class Zero(nn.Module):
    """Nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x


def place(edges: dict[str, Edge], key: str, *, leaf: bool = False) -> Tensor:
    """Return the tensor that a reference run calls edges.<edge>.<operation>.op.<layer>.<name>."""
    _, edge, operation, _, layer, name = key.split(".")
    found: Tensor = getattr(edges[edge].operations[int(operation)][int(layer)], name)
    return found if leaf else found.detach()


SEARCHES = ("search_l2", "search_kl", "search_l2_clipped", "search_progressive")
SECTIONS = {
    "pathwise_gradient": pathwise_gradient,
    "pathwise_gradient_masked": pathwise_gradient_masked,
    "kl_regulariser": kl_regulariser,
    "pruning": pruning,
    **{name: search(name) for name in SEARCHES},
    "genotype_201": genotype_201,
    "genotype_darts": genotype_darts,
    "wider_functions": wider_functions,
    "partial_cell": partial_cell,
}

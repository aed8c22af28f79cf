"""DropNAS: steps of one level with their masks, both steps of both optimizers and the adjustment; discretisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.bayes.decisions import CellNode
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.distributions import Draw
from balenas_plugin.distributions.point import Point
from balenas_plugin.perturbations.operation_dropout import OperationDropout
from balenas_plugin.search import Order, Search
from replays import difference, largest, tensor
from replays.hosts import Recorded, ToyHost, by_row, clip, rows

INPUTS = {"settings", "theta0_normal", "theta0_reduce", "alpha0_normal", "alpha0_reduce", "batches"}
PARAMETERISED = (True,) * 4 + (False,) * 4
SCALES = (1.0, 1.0, 0.5, 0.5)


class Watched(torch.optim.Adam):
    """Adam that remembers its gradients, and the parameters after each step."""

    def __init__(self, alphas: list[Tensor], **options: Any) -> None:
        super().__init__(alphas, **options)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        alphas = self.param_groups[0]["params"]
        self.seen.append((torch.stack([a.grad for a in alphas]), torch.stack([a.detach().clone() for a in alphas])))


class Toy(ToyHost):
    """The network of the file: two edges a cell; operations that were dropped are not computed.

    As with the reference's torch, gradients are filled with zeros, not forgotten; `seen` is (gradients, weights).
    """

    def __init__(self, theta: list[list[nn.Parameter]], distribution: Point, **options: Any) -> None:
        self.theta, self.distribution = theta, distribution
        self.seen: list[tuple[list[Any], Tensor]] = []
        super().__init__(self.loss_at, [w for row in theta for w in row], **options)
        self.sgd.register_step_post_hook(lambda *_: self._watch())
        forget = self.sgd.zero_grad
        self.sgd.zero_grad = lambda: forget(set_to_none=False)

    def loss_at(self, draw: Draw, x: Any, y: Any) -> Tensor:
        total = torch.zeros(len(x), dtype=torch.float64)
        for k, (label, weights) in enumerate(draw.weights.items()):
            for o in self.distribution.kept.get(label, range(8)):
                total = total + weights[o] * self.theta[k][o] * torch.cos((o + 1) * tensor(x) * SCALES[k] + k % 2)
        return 0.5 * ((total - tensor(y)) ** 2).mean()

    @property
    def weight_optimizer(self) -> torch.optim.Optimizer:
        return self.sgd

    def clip_gradients(self) -> None:
        clip([w.grad for w in self.network_weights if w.grad is not None], [], self.clip)

    def _watch(self) -> None:
        gradients = [torch.nan if w.grad is None else float(w.grad) for w in self.network_weights]
        self.seen.append((gradients, torch.stack([w.detach().clone() for w in self.network_weights])))


def steps(document: dict[str, Any]) -> float:
    """Replay whole steps."""
    settings = document["settings"]
    distribution = Point(
        by_row(document["alpha0_normal"] + document["alpha0_reduce"]),
        optimizer=lambda alphas: Watched(
            alphas,
            lr=settings["alpha_lr"],
            betas=tuple(settings["alpha_betas"]),
            eps=settings["alpha_eps"],
            weight_decay=settings["alpha_weight_decay"],
        ),
    )
    dropout = OperationDropout(rate=settings["drop_rate"], partial_decay=True)
    dropout.set_parameterised(dict.fromkeys(distribution.parameters, PARAMETERISED))
    theta = [[nn.Parameter(tensor(w)) for w in row] for row in document["theta0_normal"] + document["theta0_reduce"]]
    toy = Toy(
        theta,
        distribution,
        clip=settings["w_grad_clip"],
        lr=settings["w_lr"],
        momentum=settings["w_momentum"],
        weight_decay=settings["w_weight_decay"],
    )
    run = Search(distribution, Order(levels=1), dropout)
    off = [difference((settings["drop_rate"] ** (1 / 4), settings["p_drop_per_op"]))]
    for batch, step in zip(document["batches"], document["steps"], strict=True):
        off.append(_step(step, (batch["x"], batch["y"]), toy, run))
    return largest(off)


def _step(step: dict[str, Any], batch: Any, toy: Toy, run: Search) -> float:
    dropout, distribution = run.perturbation, run.distribution
    assert isinstance(dropout, OperationDropout)
    assert isinstance(distribution.optimizer, Watched)
    toy.train, toy.seen, distribution.optimizer.seen = batch, [], []
    pairs = [(rows(distribution.parameters), _alphas(step["before"])), (_theta(toy), step["before"]["theta"])]
    shares = rows(distribution.mean().weights)
    dropout.noise = Recorded(tensor(step["uniforms"]).split(4))
    seen: list[list[list[int]]] = []
    inner = dropout.draw

    def draw(learned: Any) -> dict[str, list[int]]:
        kept = inner(learned)
        seen.append([kept.get(label, list(range(8))) for label in learned.parameters])
        return kept

    dropout.draw = draw
    loss, _ = run.iteration(toy, epoch=0, index=0)
    dropout.draw = inner
    masks = torch.stack([torch.zeros(8).index_fill(0, torch.tensor(kept), 1.0) for kept in seen[0]])
    pairs += [
        (loss, step["loss_1"]),
        (masks, step["masks_normal"] + step["masks_reduce"]),
        ((shares * masks).sum(-1), step["ratios_normal"] + step["ratios_reduce"]),
        (next(dropout.noise.values, None) is None, True),
        (rows(distribution.parameters), _alphas(step["after"])),
        (_theta(toy), step["after"]["theta"]),
    ]
    for part, (gradients, theta), (of_alpha, alpha) in zip(
        ("loss", "decay"), toy.seen, distribution.optimizer.seen, strict=True
    ):
        expected = step[f"{part}_step"]
        pairs += [
            (gradients, [torch.nan if g is None else g for g in expected["theta_grad_clipped"]]),
            (of_alpha, [row for cell in expected["alpha_grad"] for row in cell]),
            (alpha, _alphas(step[f"after_{part}_step"])),
            (theta, step[f"after_{part}_step"]["theta"]),
        ]
    return difference(*pairs)


def _alphas(record: dict[str, Any]) -> Tensor:
    return tensor(record["alpha_normal"] + record["alpha_reduce"])


def _theta(toy: Toy) -> Tensor:
    return torch.stack([w.detach() for w in toy.network_weights])


def parse(document: dict[str, Any]) -> float:
    """Replay the discretisation: NNI's of a cell is the reference's, by raw alpha; its last logit is `none`."""
    record = document["parse"]
    names = record["primitives"][:-1]
    off = []
    for row in record["rows"]:
        for node, (alphas, gene) in enumerate(zip(row["alpha"], row["gene"], strict=True)):
            labels = tuple(f"cell/{node + 2}_{j}" for j in range(len(alphas)))
            scores = {label: tensor(a) for label, a in zip(labels, alphas, strict=True)}
            decision = CellNode("cell", node + 2, labels, 2, (tuple(names),) * len(labels))
            posterior = Posterior(scores, {label: torch.ones_like(a) for label, a in scores.items()})
            found = decision.to_architecture(decision.choose(scores), posterior)
            chosen = [[found[f"cell/op_{node + 2}_{k}"], found[f"cell/input_{node + 2}_{k}"][0]] for k in range(2)]
            off.append(0.0 if chosen == gene else 1.0)
    return largest(off)


SECTIONS = {"steps": steps, "parse": parse}

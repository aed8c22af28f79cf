"""ProxylessNAS: both modes of its binary gates with its latency terms; NNI's layer and penalty, and the reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nni.nas.strategy  # first, see balenas_plugin.adapters.nni
import torch
from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty
from nni.nas.profiler import ExpressionProfiler
from torch import Tensor, nn

from balenas_plugin.costs import CostOptions
from balenas_plugin.distributions import Draw, Weights
from balenas_plugin.distributions.binary_gates import BinaryGates
from balenas_plugin.mixed_ops.drawn_path import drawn_path
from balenas_plugin.search import Order, Search
from replays import difference, largest, tensor
from replays.hosts import Recorded, ToyHost, by_row, rows

INPUTS = {"ops", "alpha0", "latencies", "ref_latency", "lr", "x", "t"}


class Adam(torch.optim.Adam):
    """Keeps the parameters that it leaves, before anything else is done to them."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        self.left = [p.detach().clone() for group in self.param_groups for p in group["params"]]


class Looking(BinaryGates):
    """Only looks at the gradients of a draw, which is drawn twice; every operation is one, zeros too."""

    def update(self, evaluate: Any) -> Tensor:
        draw, again = (next(iter(self.draws())) for _ in range(2))
        loss, gradients = evaluate(draw)
        self.gates = torch.stack([gradients[label] for label in self.parameters])
        self.pulled = rows(draw.pull_back(gradients))
        again.of_costs = draw.of_costs
        self.pulled_of_costs = again.pull_back({})
        return loss


class Edges:
    """The two edges of a file, in series.

    Args:
        document: of the file.
        form: of the latency term, or "none".
    """

    def __init__(self, document: dict[str, Any], form: str = "none") -> None:
        self.ops, self.everything, self.loss = document["ops"], False, torch.zeros(())
        labels = [f"{e:03d}" for e in range(len(self.ops))]
        self.zeros = {
            label: [k for k, op in enumerate(ops) if op is None] for label, ops in zip(labels, self.ops, strict=True)
        }
        self.table = dict(zip(labels, map(tensor, document["latencies"]), strict=True))
        self.options = None
        self.expected: Tensor | None = None
        if form != "none":
            self.options = CostOptions(name="flops", reference=document["ref_latency"], form=form)

    def of(self, draw: Draw, x: Any, t: Any) -> Tensor:
        """Return the loss of a draw, by the drawn operations alone or as a sum over all."""
        h = tensor(x)
        for (label, w), ops in zip(draw.weights.items(), self.ops, strict=True):

            def run(k: int, h: Tensor = h, ops: Any = ops) -> Tensor:
                return 0 * h if ops[k] is None else ops[k][0] * h + ops[k][1] * torch.sin(h)

            whole = sum(weight * run(k) for k, weight in enumerate(w)) if self.everything else None
            h = drawn_path(w, draw.chosen[label], run, others=draw.others[label]) if whole is None else whole
        self.loss = 0.5 * ((h - tensor(t)) ** 2).sum()
        return self.loss

    @property
    def cost(self) -> Callable[[Tensor, Weights], Tensor] | None:
        """What joins the loss."""
        options = self.options
        return None if options is None else lambda loss, expected: options.joined(loss, self._latency(expected))

    def _latency(self, weights: Weights) -> Tensor:
        self.expected = torch.stack([(self.table[label] * w).sum() for label, w in weights.items()]).sum()
        return self.expected

    def step(self, distribution: BinaryGates, x: Any, t: Any, clocks: list[Tensor]) -> Tensor:
        """Run an architecture step; return its loss."""
        host = ToyHost(self.of, [nn.Parameter(torch.zeros(()))], clip=1.0, lr=1.0)
        host.val, distribution.noise = (x, t), Recorded(2 * clocks)  # type: ignore[assignment]
        loss = Search(distribution, Order(), cost=self.cost).architecture_step(host)
        assert loss is not None
        return loss


def sequences(document: dict[str, Any]) -> float:
    """Replay steps of both modes, without and with each latency term."""
    return largest(_sequence(document, sequence) for sequence in document["sequences"])


def _sequence(document: dict[str, Any], sequence: dict[str, Any]) -> float:
    edges, mode = Edges(document, sequence["reg"]), sequence["mode"]

    def adam(alphas: list[Tensor]) -> Adam:
        return Adam(alphas, lr=document["lr"], betas=(0.0, 0.999))

    distribution = BinaryGates(by_row(document["alpha0"]), mode=mode, optimizer=adam)
    distribution.set_zeros(edges.zeros)
    look = Looking(distribution.parameters, mode=mode)
    off = []
    for step, x, t in zip(sequence["steps"], document["x"], document["t"], strict=True):
        clocks = _clocks(mode, edges, step["active"], step["inactive"])
        off.append(difference((rows(distribution.parameters), step["alpha_before"])))
        edges.step(look, x, t, clocks)
        off.append(difference((look.gates, step["binary_grads"])))
        if edges.options is not None:
            of_costs = rows(look.pulled_of_costs), step["alpha_grad_from_latency_only"]
            off.append(difference((edges.expected, step["expected_latency"]), of_costs))
        loss = edges.step(distribution, x, t, clocks)
        off += [
            difference((loss, step["loss"]), (edges.loss, step["loss_ce"])),
            *map(_gradient, distribution.parameters.values(), step["alpha_grad"]),
            difference(
                (torch.stack(distribution.optimizer.left), step["alpha_after_adam"]),  # type: ignore[attr-defined]
                (rows(distribution.parameters), step["alpha_after"]),
                (rows({k: a.softmax(-1) for k, a in distribution.parameters.items()}), step["probs_after"]),
            ),
        ]
    return largest(off)


def _gradient(parameter: Tensor, expected: Any) -> float:
    """Return how far a gradient is off; none is expected where a zero was drawn."""
    if parameter.grad is None or expected is None:
        return 0.0 if parameter.grad is expected else float("inf")
    return difference((parameter.grad, expected))


def _clocks(mode: str, edges: Edges, *drawn: Any) -> list[Tensor]:
    """Return the clocks by which the edges draw what is drawn in a file: active operations, then inactive ones."""
    clocks = []
    for ops, active, *inactive in zip(edges.ops, *drawn, strict=True):
        pairs = [[*active, *inactive[0]]] if mode == "two" else []
        clocks += [_first(chosen, len(ops)) for chosen in (*pairs, active)]
    return clocks


def _first(chosen: list[int], operations: int) -> Tensor:
    clocks = torch.full((operations,), 1e200, dtype=torch.float64)
    return clocks.index_fill(0, torch.tensor(chosen), 1e-50)


def full_equals_full_v2(document: dict[str, Any]) -> float:
    """Compare the gradients of all steps with those of the sum over all operations."""
    off = []
    for sequence in document["sequences"]:
        if sequence["mode"] == "full_v2":
            edges, look = Edges(document), Looking(by_row(document["alpha0"]))
            for step, x, t in zip(sequence["steps"], document["x"], document["t"], strict=True):
                clocks = _clocks("full_v2", edges, step["active"])
                found = []
                for edges.everything in (False, True):
                    edges.step(look, x, t, clocks)
                    found.append(look.pulled)
                off.append(float((found[0] - found[1]).abs().max()))
    return difference((largest(off), document["full_equals_full_v2"]["max_abs_difference"]))


def nni(document: dict[str, Any]) -> float:
    """Replay NNI's gradients, which are those of full_v2 but that zeros learn, and those of the reference."""
    return largest(_nnis_row(document, row) for row in document["nni"]["rows"])


def _nnis_row(document: dict[str, Any], row: dict[str, Any]) -> float:
    edges, distribution = Edges(document), BinaryGates(by_row(document["alpha0"]))
    distribution.set_zeros(edges.zeros)
    look = Looking(distribution.parameters)
    clocks = _clocks("full_v2", edges, [[k] for k in row["sampled"]])
    loss = edges.step(look, document["x"][0], document["t"][0], clocks)
    edges.step(distribution, document["x"][0], document["t"][0], clocks)
    return largest(
        [
            difference((loss, row["loss"]), (look.pulled, row["alpha_grad"])),
            *map(_gradient, distribution.parameters.values(), row["official_full_v2_alpha_grad"]),
        ]
    )


class Constant(ExpressionProfiler):
    """A profiler that has found one number."""

    def __init__(self, value: float) -> None:
        self.expression = value


def _penalised(row: dict[str, Any], **options: Any) -> tuple[Tensor, Any]:
    """Return what NNI's penalty, which searches take as the option `penalty`, makes of a loss."""
    found: tuple[Tensor, Any] = ExpectationProfilerPenalty(Constant(row["latency"]), **options)(tensor(row["loss"]), {})
    return found


def nni_penalty(document: dict[str, Any]) -> float:
    """Compare NNI's penalty with itself: the formula is NNI's, of this package is how its gradient reaches alpha."""
    off = []
    for row in document["nni_penalty"]["rows"]:
        total, details = _penalised(row, **{key: row[key] for key in ("baseline", "scale", "nonlinear", "aggregate")})
        off.append(difference((total, row["loss_final"]), (details["normalized_penalty"], row["normalized_penalty"])))
    return largest(off)


def rl_reward(document: dict[str, Any]) -> float:
    """Replay the reward of the reference's other search, a power of the cost, which is a form of NNI's penalty."""
    off = []
    for row in document["rl_reward"]["rows"]:
        given = {"loss": row["acc"], "latency": row["lat"]}
        off.append(difference((_penalised(given, baseline=row["ref"], scale=-0.1, aggregate="mul")[0], row["reward"])))
    return largest(off)


SECTIONS = {
    "sequences": sequences,
    "full_equals_full_v2": full_equals_full_v2,
    "nni": nni,
    "nni_penalty": nni_penalty,
    "rl_reward": rl_reward,
}

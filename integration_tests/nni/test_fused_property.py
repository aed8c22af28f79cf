"""Whatever a candidate is and wherever a pass happens: a mixed module computes what NNI's own computes.

Random mixed modules of plain candidates get one oddity each (a layer of an unusual kind, a patch before or after the
first pass, an unusual input, a transform around the pass); values, gradients in everything, second derivatives and
statistics are compared with `fused=False`. The last test takes each of the checks out and sees the comparison fail.
"""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from nni.nas.hub.pytorch.modules import NasBench201Cell
from nni.nas.nn.pytorch import Cell, LayerChoice, ModelSpace
from torch import Tensor, nn

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.supernets import fusion_plan
from balenas_plugin.fused import cell_kernels, chains, fan, sums

from .oddities import INPUTS, ODD, PATCHES, PLAIN, SHARED, WAYS, C, derivatives

PATCHED = ("block", "hub block", "hub separable", "hub pooling", "hub zero", "skip", "conv")
COMPANIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(PATCHES, PATCHED),
    **{name: ("skip", "block", "average", "hub zero") for name in ODD if "in place" in name},
    "parameter": ("skip", "conv", "thin"),
    **dict.fromkeys(("complex", "integer", "sparse", "complex numbers"), ("skip", "own")),
    "flat": ("skip", "own", "rectified"),
    "unbatched": ("skip", "own", "rectified", "conv", "thin", "maximum", "average"),
}
"""The other candidates, where not all of them would run in NNI's form."""

ONE_FUNCTION = ("hub zero", "skip", "block", "average", "hub block")
"""Candidates of a cell that is one compiled function, where images are in channels-last memory."""


@dataclass(frozen=True)
class Case:
    """One random mixed module with one oddity."""

    oddity: str
    host: str
    late: bool
    seed: int

    def factories(self) -> dict[str, Callable[[], nn.Module]]:
        """Return what makes each candidate."""
        rng = random.Random(self.seed)
        names = COMPANIONS.get(self.oddity) or rng.sample(tuple(PLAIN), 4)
        names = ONE_FUNCTION if self.host == "one function" else names
        found = [(name, PLAIN[name]) for name in names]
        if self.oddity in ODD:
            found.insert(1, ("odd", ODD[self.oddity]))
        return dict(found)

    def choice(self) -> nn.Module:
        if self.oddity in SHARED:
            return LayerChoice(SHARED[self.oddity](), label="mix")
        if self.host == "layer":
            return LayerChoice({name: make() for name, make in self.factories().items()}, label="mix")
        operations = OrderedDict((name, lambda *_, make=make: make()) for name, make in self.factories().items())
        if self.host in ("nasbench201", "one function"):
            return NasBench201Cell(operations, C, C, num_tensors=3, label="mix")
        return Cell(operations, num_nodes=2, num_ops_per_node=1, num_predecessors=1, label="mix")


def cases(oddity: str) -> list[Case]:
    """Return what is drawn for an oddity: a LayerChoice where it comes in later, and a cell where it is from the start.

    Where the oddity is around a pass or in what a module keeps, NAS-Bench-201's cell as one function too.

    What is no patch is there from the start; "later" is then behind a pass on an ordinary input.
    """
    rng = random.Random(oddity)
    cell = rng.choice(["nasbench201", "cell"])
    found = [Case(oddity, "layer", True, rng.randrange(10**6)), Case(oddity, cell, False, rng.randrange(10**6))]
    return found if oddity in (*ODD, *SHARED, *INPUTS) else [*found, Case(oddity, "one function", True, 0)]


class Space(ModelSpace):
    """One mixed module behind an operation, so that its input is no leaf."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.mix = case.choice()

    def forward(self, x: Tensor) -> Any:
        return self.mix(x * 1.25 if type(x) is Tensor and (x.is_floating_point() or x.is_complex()) else x)


def outcome(case: Case, *, fused: bool) -> list[Any] | str:
    """Return what passes give, or the error that one ends in."""
    rng = random.Random(case.seed)
    model = BaLeNAS(fused=fused).mutate_model(Space(case)).double()
    trains = rng.random() < 0.6 or case.oddity in SHARED or case.host == "one function"
    model.train(trains and case.oddity not in ("vmap", "jacrev", "jvp", "forward mode"))
    torch.manual_seed(case.seed)
    random.seed(case.seed)
    with torch.no_grad():
        for p in model.parameters():
            if not isinstance(p, nn.UninitializedParameter):
                p.normal_(0.3, 0.5)
    x = torch.randn(2, C, 4, 4, dtype=torch.float64)
    if case.host == "one function":
        x = x.contiguous(memory_format=torch.channels_last)
    results: list[Any] = []
    with contextlib.ExitStack() as stack:
        try:
            if case.late:
                results += derivatives(model, x)
            if case.oddity in PATCHES:
                PATCHES[case.oddity](model, rng, stack)
            odd = INPUTS.get(case.oddity, lambda x: x)(x)
            results += WAYS.get(case.oddity, derivatives)(model, odd)
            results += derivatives(model, x) if case.oddity not in INPUTS else []
        except Exception as error:
            return type(error).__name__
    return results


def differs(case: Case) -> str | None:
    """Return how the outcome differs from NNI's, None if it does not."""
    expected, given = (outcome(case, fused=value) for value in (False, True))
    if isinstance(expected, str) or isinstance(given, str):
        return None if expected == given else f"{given if isinstance(given, str) else 'no error'}, not {expected}"
    tolerance = {"autocast": 0.03, "another precision": 1e-5}.get(case.oddity, 1e-9)
    for k, (a, b) in enumerate(zip(given, expected, strict=True)):
        scale = float(b.detach().abs().max()) if b.numel() else 0.0
        if a.shape != b.shape or not torch.allclose(a, b.to(a.dtype), rtol=tolerance, atol=tolerance * (1 + scale)):
            return f"number {k} is {a}, not {b}"
    return None


ODDITIES = ["nothing odd", *ODD, *SHARED, *PATCHES, *INPUTS, *WAYS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("oddity", ODDITIES)
def test_it_computes_what_nni_computes(oddity: str) -> None:
    for case in cases(oddity):
        assert differs(case) is None, case


@pytest.mark.skipif(cell_kernels.kernels(torch.float64) is None, reason="no C compiler here")
def test_a_cell_is_one_function() -> None:
    model = BaLeNAS().mutate_model(Space(Case("nothing odd", "one function", True, 0))).double()
    x = torch.randn(2, C, 4, 4, dtype=torch.float64)
    assert type(model(x.contiguous(memory_format=torch.channels_last)).grad_fn).__name__ == "_CellBackward"
    assert type(model(x).grad_fn).__name__ != "_CellBackward"


FORGOTTEN: dict[str, tuple[tuple[str, ...], list[tuple[Any, str, Any]]]] = {
    "transforms": (("vmap", "jacrev", "jvp", "forward mode"), [(fusion_plan, "surroundings", lambda _: None)]),
    "who else looks": (("hook on all", "a function mode"), [(fusion_plan, "surroundings", lambda _: None)]),
    "the input": (("parameter", "sparse"), [(fusion_plan, "why_unfit", lambda x: None)]),
    "numbers": (
        ("complex",),
        [(fusion_plan, "why_unfit", lambda x: None), (fan, "_why_not_a_term", lambda result, like: None)],
    ),
    "the trial": (
        ("shape that broadcasts", "one channel", "a tuple", "complex numbers", "in place first", "in place in code"),
        [
            (fusion_plan, "departing", lambda *_: None),
            (fan.Fan, "_call", lambda self, branch, x, _: branch.operation(x)),
        ],
    ),
    "what a trial leaves": (("stateful", "made on the fly"), [(fusion_plan, "untouched", contextlib.nullcontext)]),
    "its own code": (
        ("forward of Conv2d", "forward of hub ReLUConvBN", "forward of hub Zero", "overriding subclass"),
        [(chains, "departure", lambda *_: None)],
    ),
    "options": (("momentum none", "gamma only", "without statistics"), [(chains, "_peculiarity", lambda _: None)]),
    "changes": (
        ("layer swapped", "class's forward", "in place from now on", "forward hook"),
        [(fusion_plan.Plan, "is_current", lambda *_: True)],
    ),
    "reductions": (("reduction",), [(fusion_plan, "why_not_its_own", lambda *_: None)]),
    "the candidates": (("zeros only", "one candidate twice"), [(fusion_plan.Plan, "_refusal", lambda _: None)]),
    "copies": (("copied",), [(fusion_plan.Plan, "__reduce__", object.__reduce__)]),
    "many gradients": (("several gradients at once",), [(sums, "is_batched", lambda _: False)]),
}
"""Check -> the oddities that show when it is missing, and what would stand in its place."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", FORGOTTEN)
def test_it_is_seen_when_a_check_is_forgotten(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    oddities, patches = FORGOTTEN[check]
    for home, name, nothing in patches:
        monkeypatch.setattr(home, name, nothing)
    for oddity in oddities:
        assert any(differs(case) is not None for case in cases(oddity)), oddity

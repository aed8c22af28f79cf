"""The figures of the diagnostics against closed forms, counting, and other ways to compute them."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from balenas_plugin.bayes.decisions import CellNode, OneOf, TopSet
from balenas_plugin.bayes.laws import GumbelLaw, LogGammaLaw
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.bayes.second_derivatives.lanczos import (
    hessian_product,
    hutchinson_trace,
    lanczos_largest_eigenvalue,
)
from balenas_plugin.diagnostics import (
    SearchState,
    choice_entropy,
    depth,
    draw_outcomes,
    kind_of,
    measure_curvature,
    parameter_free_share,
    probabilities,
    skip_ratio,
    summarise,
    width,
)
from balenas_plugin.diagnostics.curvature import epochs_between
from balenas_plugin.diagnostics.operations import chosen_kinds
from balenas_plugin.search_spaces import cells_of, get_space, nasbench201

# -- curvature --------------------------------------------------------------------------------------------------------


def symmetric(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return (a + a.T) / 2


def quadratic(matrix: torch.Tensor, alphas: list[torch.Tensor]):
    def loss() -> torch.Tensor:
        x = torch.cat([alpha.flatten() for alpha in alphas])
        return x @ matrix @ x / 2

    return loss


def split(n: int, parts: tuple[int, ...]) -> list[torch.Tensor]:
    assert sum(parts) == n
    return [torch.zeros(part, dtype=torch.float64, requires_grad=True) for part in parts]


@pytest.mark.parametrize("exact_up_to", [64, 0])
def test_curvature_of_a_quadratic_is_its_matrix(exact_up_to):
    matrix, alphas = symmetric(12, 0), split(12, (5, 4, 3))
    found = measure_curvature([quadratic(matrix, alphas)], alphas, exact_up_to=exact_up_to)
    assert found.eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-4)
    assert found.method == ("exact" if exact_up_to else "lanczos")
    if exact_up_to:
        assert found.trace == pytest.approx(float(matrix.trace()), rel=1e-9)
        assert found.products == 12


def test_curvature_of_several_batches_is_that_of_their_mean():
    matrices, alphas = [symmetric(6, seed) for seed in (1, 2)], split(6, (6,))
    mean = (matrices[0] + matrices[1]) / 2
    for exact_up_to in (64, 0):
        found = measure_curvature([quadratic(m, alphas) for m in matrices], alphas, exact_up_to=exact_up_to)
        assert found.eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(mean)[-1]), rel=1e-4)


@pytest.mark.parametrize(
    ("logits", "iterations", "how", "epochs"),
    [
        (30, 390, {}, 5),
        (30, 12, {}, 50),  # 30 products in 50 epochs of 12 iterations are a twentieth
        (30, 12, {"batches": 2}, 100),
        (300, 12, {}, 92),  # Lanczos: 55 products whatever the number of logits
        (30, math.inf, {}, 5),
    ],
)
def test_the_curvature_takes_at_most_a_twentieth_of_the_iterations(logits, iterations, how, epochs):
    assert epochs_between(logits, iterations, **how) == epochs


def test_curvature_of_a_supernet_against_finite_differences_of_its_gradient():
    """A mixed layer whose weights are softmaxed logits: a third way, which uses no second derivative at all."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (16,), generator=generator)
    weights = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    head = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    alphas = [torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]

    def loss_at(values: list[torch.Tensor]) -> torch.Tensor:
        h = x
        for alpha, candidates in zip(values, weights, strict=True):
            h = sum(p * torch.tanh(h @ w) for p, w in zip(alpha.softmax(-1), candidates, strict=True))
        return F.cross_entropy(h @ head, y)

    def gradient(flat: torch.Tensor) -> torch.Tensor:
        values = [v.detach().requires_grad_() for v in flat.split(3)]
        return torch.cat(torch.autograd.grad(loss_at(values), values))

    at, step = torch.cat(alphas).detach(), 1e-5
    columns = [(gradient(at + step * e) - gradient(at - step * e)) / (2 * step) for e in torch.eye(6).double()]
    numeric = torch.stack(columns, 1)
    exact = measure_curvature([lambda: loss_at(alphas)], alphas)
    lanczos = measure_curvature([lambda: loss_at(alphas)], alphas, exact_up_to=0)
    largest = float(torch.linalg.eigvals(numeric).real.max())
    assert exact.eigenvalue == pytest.approx(largest, rel=1e-6)
    assert lanczos.eigenvalue == pytest.approx(largest, rel=1e-4)
    assert exact.trace == pytest.approx(float(numeric.diagonal().sum()), rel=1e-6, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 30), rank=st.integers(0, 4), seed=st.integers(0, 1000))
def test_lanczos_finds_the_largest_signed_eigenvalue(n, rank, seed):
    """Also of matrices of low rank, the zero matrix, and matrices whose largest |eigenvalue| is negative."""
    matrix = symmetric(n, seed)
    if rank < n:
        values, vectors = torch.linalg.eigh(matrix)
        values[rank:] = 0
        matrix = vectors @ torch.diag(values) @ vectors.T
    start = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found, steps = lanczos_largest_eigenvalue(lambda v: matrix @ v, start, max_steps=n, tolerance=1e-10)
    expected = torch.linalg.eigvalsh(matrix)
    assert found == pytest.approx(float(expected[-1]), abs=1e-6 * max(1.0, float(expected.abs().max())))
    assert 1 <= steps <= n


def test_lanczos_takes_few_products_where_one_eigenvalue_stands_out():
    matrix = torch.diag(torch.linspace(0, 1, 200, dtype=torch.float64))
    matrix[0, 0] = 10.0
    start = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, steps = lanczos_largest_eigenvalue(lambda v: matrix @ v, start)
    assert found == pytest.approx(10.0, rel=1e-6)
    assert steps < 15


def test_hutchinson_is_exact_for_a_diagonal_and_unbiased():
    diagonal = torch.tensor([1.0, -2.0, 4.0])
    generator = torch.Generator().manual_seed(0)
    assert hutchinson_trace(lambda v: diagonal * v, diagonal, num_samples=1, generator=generator) == pytest.approx(3.0)
    matrix = symmetric(8, 5)
    estimate = hutchinson_trace(lambda v: matrix @ v, matrix[0], num_samples=4000, generator=generator)
    error = math.sqrt(2 * float((matrix - torch.diag(matrix.diagonal())).square().sum()) / 4000)
    assert estimate == pytest.approx(float(matrix.trace()), abs=4 * error)


def test_an_alpha_that_the_loss_does_not_see_has_no_curvature():
    seen, unseen = split(5, (2, 3))
    product = hessian_product(lambda: seen.square().sum(), [seen, unseen])
    assert product(torch.ones(5, dtype=torch.float64)).tolist() == [2.0, 2.0, 0.0, 0.0, 0.0]
    linear = hessian_product(lambda: (3 * seen).sum(), [seen])
    assert linear(torch.ones(2, dtype=torch.float64)).tolist() == [0.0, 0.0]


# -- uncertainty ------------------------------------------------------------------------------------------------------


def gaussian(seed: int = 0, **shapes: int) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    logits = {label: torch.randn(n, generator=generator) for label, n in shapes.items()}
    precision = {label: 0.5 + 3 * torch.rand(n, generator=generator) for label, n in shapes.items()}
    return Posterior(logits, precision)


def softmax(**logits: torch.Tensor) -> Posterior:
    return Posterior.of({label: GumbelLaw(values) for label, values in logits.items()}, kind="softmax")


def test_choice_entropy_closed_forms():
    uniform = {"a": torch.full((4,), 0.25), "b": torch.full((2,), 0.5)}
    assert choice_entropy(uniform) == pytest.approx(1.0)
    certain = {"a": torch.tensor([0.0, 1.0, 0.0, 0.0]), "b": torch.tensor([1.0, 0.0])}
    assert choice_entropy(certain) == 0.0
    p = 0.3
    mixed = {"a": torch.full((4,), 0.25), "b": torch.tensor([p, 1 - p])}
    expected = math.log(4) - p * math.log(p) - (1 - p) * math.log(1 - p)
    assert choice_entropy(mixed) == pytest.approx(expected / (math.log(4) + math.log(2)), rel=1e-6)
    assert choice_entropy({"only": torch.ones(1)}) == 0.0


def test_draws_follow_the_probabilities():
    decisions = [OneOf("a", ("x", "y", "z"))]
    dirichlet = Posterior.of({"a": LogGammaLaw(torch.tensor([0.5, 2.0, 1.0]))}, kind="dirichlet")
    for posterior in (gaussian(seed=4, a=3), softmax(a=torch.tensor([0.5, -1.0, 0.2])), dirichlet):
        drawn = torch.tensor([o[0] for o in draw_outcomes(posterior, decisions, count=1500, seed=0)])
        shares = torch.bincount(drawn, minlength=3) / 1500
        expected = probabilities(posterior, decisions)["a"]
        assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / 1500).sqrt()).all()


def test_the_logit_of_edges_that_are_not_chosen_is_no_candidate():
    node = CellNode("cell", 2, ("cell/2_0", "cell/2_1"), 2, (("conv", "skip"),) * 2)
    logits = {"cell/2_0": torch.tensor([0.0, 0.0, 9.0]), "cell/2_1": torch.zeros(3), "other": torch.zeros(3)}
    for posterior in (softmax(**logits), Posterior(logits, {label: torch.ones(3) for label in logits})):
        found = probabilities(posterior, [node, OneOf("other", (1, 2, 3))])
        assert found["cell/2_0"].tolist() == pytest.approx([0.5, 0.5])
        assert found["other"].tolist() == pytest.approx([1 / 3] * 3)


def test_draws_have_a_generator_of_their_own():
    posterior, decisions = gaussian(a=4, b=4), [OneOf("a", tuple("wxyz")), TopSet("b", 2)]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw_outcomes(posterior, decisions, count=20, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert draw_outcomes(posterior, decisions, count=20, seed=5) == first
    assert draw_outcomes(posterior, decisions, count=20, seed=6) != first


# -- operations and cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_identity", "num_parameters", "kind"),
    [
        ("none", False, 0, "none"),
        ("skip_connect", True, 0, "skip"),
        ("skip_connect", False, 128, "skip"),  # a factorised reduction
        ("2", True, 0, "skip"),
        ("avg_pool_3x3", False, 0, "parameter-free"),
        ("sep_conv_3x3", False, 10, "parametric"),
    ],
)
def test_kinds(name, is_identity, num_parameters, kind):
    assert kind_of(name, is_identity=is_identity, num_parameters=num_parameters) == kind


def test_ratios():
    kinds = ["skip", "skip", "none", "parametric", "parametric", "parameter-free", "parametric", "parametric"]
    assert skip_ratio(kinds) == 2 / 8
    assert parameter_free_share(kinds) == 4 / 8
    assert skip_ratio([]) is None


def test_kinds_of_a_cell_node_are_those_of_its_chosen_edges():
    node = CellNode("cell", 2, ("cell/2_0", "cell/2_1"), 2, (("conv", "skip"),) * 2)
    kinds = {"cell/2_0": ["parametric", "skip"], "cell/2_1": ["parametric", "skip"], "x": ["skip", "skip"]}
    inputs = TopSet("inputs", 1)
    assert chosen_kinds([node, inputs, OneOf("act", (1, 2))], [((0, 1), (1, 0)), (0,), 1], kinds) == [
        "skip",
        "parametric",
    ]


def brute_force_depth(indices: tuple[int, ...]) -> int:
    """The longest path of NAS-Bench-201's cell, by listing all four of its paths."""
    on = {(e.source, e.target): index != 0 for e, index in zip(nasbench201.EDGES, indices, strict=True)}
    paths = [(0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3)]
    whole = [len(p) - 1 for p in paths if all(on[step] for step in itertools.pairwise(p))]
    return max(whole, default=0)


def test_depth_of_every_pattern_of_connections():
    for indices in itertools.product((0, 3), repeat=6):
        (edges,) = cells_of(nasbench201.to_nni(indices)).values()
        assert depth(edges) == brute_force_depth(indices), indices
        assert (width(edges) > 0) == (brute_force_depth(indices) > 0)


def test_width_counts_shares_of_inputs():
    (full,) = cells_of(nasbench201.to_nni((3,) * 6)).values()
    assert width(full) == pytest.approx(1 + 1 / 2 + 1 / 3)
    # node 2 is fed but leads nowhere: |conv~0|+|conv~0|none~1|+|conv~0|conv~1|none~2|
    (dead_end,) = cells_of(nasbench201.to_nni((3, 3, 0, 3, 3, 0))).values()
    assert (depth(dead_end), width(dead_end)) == (2, 1 + 1 / 2)


def test_cells_in_the_notation_of_nni_cells():
    architecture = {
        "normal/op_2_0": "sep_conv_3x3",
        "normal/input_2_0": [0],
        "normal/op_2_1": "skip_connect",
        "normal/input_2_1": [1],
        "normal/op_3_0": "skip_connect",
        "normal/input_3_0": [2],
        "normal/op_3_1": "skip_connect",
        "normal/input_3_1": [0],
        "depth": 4,
    }
    cells = cells_of(architecture)
    assert list(cells) == ["normal"]
    assert [(e.source, e.target, e.operation) for e in cells["normal"]] == [
        (0, 2, "sep_conv_3x3"),
        (1, 2, "skip_connect"),
        (0, 3, "skip_connect"),
        (2, 3, "skip_connect"),
    ]
    assert depth(cells["normal"]) == 2
    assert width(cells["normal"]) == 1.5
    assert cells_of({"depth": 3, "layer": "conv"}) == {}


def test_depth_and_width_of_published_cells():
    """Counted by hand on the cells of DARTS's second-order search and of AmoebaNet, whose output joins three nodes."""
    space = get_space("darts-reference")
    cells = {name: space.cells(space.read(name).sample) for name in ("DARTS_V2", "AmoebaNet")}
    figures = {name: (depth(cells[name]["normal"]), width(cells[name]["normal"])) for name in cells}
    assert figures == {"DARTS_V2": (2, 3.5), "AmoebaNet": (3, 4.0)}
    joined = [edge for edge in cells["AmoebaNet"]["reduce"] if edge.operation == "concat"]
    assert [(edge.source, edge.target) for edge in joined] == [(3, 7), (4, 7), (6, 7)]


# -- the record of an epoch -------------------------------------------------------------------------------------------


def nasbench_state(posterior: Posterior) -> SearchState:
    names = ("none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3")
    kinds = ["none", "skip", "parametric", "parametric", "parameter-free"]
    labels = list(nasbench201.to_nni((0,) * 6))
    return SearchState(
        posterior=posterior,
        decisions=[OneOf(label, names) for label in labels],
        choices=dict.fromkeys(labels, names),
        kinds=dict.fromkeys(labels, kinds),
        space=get_space("nasbench201"),
    )


def nasbench_posterior(indices: tuple[int, ...], *, precision: float | None) -> Posterior:
    labels = list(nasbench201.to_nni(indices))
    logits = {k: F.one_hot(torch.tensor(i), 5).float() * 4 for k, i in zip(labels, indices, strict=True)}
    if precision is None:
        return softmax(**logits)
    return Posterior(logits, {k: torch.full((5,), precision) for k in labels})


def test_the_record_of_a_certain_posterior():
    indices = (1, 1, 3, 0, 4, 3)
    truths = {"unseen_by_search": True, "table": "t", "accuracy": {"cifar10": [90.0]}}
    state = nasbench_state(nasbench_posterior(indices, precision=1e4))
    record = summarise(state, draws=10, seed=0, truths=lambda samples: truths if len(samples) == 1 else None)
    assert record["notation"]["nasbench201"] == nasbench201.format_string(indices)
    assert record["skip_ratio"] == pytest.approx(2 / 6)
    assert record["parameter_free_share"] == pytest.approx(4 / 6)
    assert record["cells"] == {"cell": {"depth": 3, "width": pytest.approx(1 + 1 / 2)}}
    assert record["draws"]["distinct"] == 1
    assert record["draws"]["skip_ratio"] == record["skip_ratio"]
    assert record["ground_truth"]["accuracy"] == {"cifar10": 90.0}
    assert record["draws"]["ground_truth"]["accuracy"] == {"cifar10": [90.0] * 10}
    assert record["sigma"] == {"mean": 0.01, "least": 0.01, "most": 0.01}


def test_the_record_of_a_softmax():
    record = summarise(nasbench_state(nasbench_posterior((3,) * 6, precision=None)), draws=5, seed=0)
    assert not {"precision", "sigma", "log_odds"} & record.keys()
    p, rest = (x / (math.exp(4) + 4) for x in (math.exp(4), 1))
    assert record["probabilities"]["cell/0_1"][3] == pytest.approx(p, rel=1e-5)
    assert record["entropy"] == pytest.approx(-6 * (p * math.log(p) + 4 * rest * math.log(rest)), rel=1e-5)


def test_a_strategy_that_learns_nothing_has_no_logits():
    state = replace(nasbench_state(nasbench_posterior((3,) * 6, precision=None)), has_argmax=False)
    record = summarise(state, draws=5, seed=0)
    assert "logits" not in record
    assert "architecture" not in record
    assert record["draws"]["count"] == 5


def test_numpys_values_of_a_choice_become_pythons():
    choice = OneOf("kernel", (np.int64(1), np.float32(0.5)))
    posterior = Posterior({"kernel": torch.zeros(2)}, {"kernel": torch.ones(2)})
    samples = [choice.to_architecture(k, posterior) for k in range(2)]
    assert json.dumps(samples) == '[{"kernel": 1}, {"kernel": 0.5}]'
    assert [choice.from_architecture(architecture) for architecture in samples] == [0, 1]
    other = OneOf("kernel", ((3, 5), "same"))
    assert [other.to_architecture(k, posterior) for k in range(2)] == [{"kernel": (3, 5)}, {"kernel": "same"}]


def test_a_logit_that_is_not_finite_is_reported_and_nothing_else_is_computed():
    posterior = nasbench_posterior((3,) * 6, precision=1.0)
    posterior.scores["cell/0_2"][1] = math.nan
    record = summarise(nasbench_state(posterior), draws=5, seed=0)
    assert record["not_finite"] == ["logits of cell/0_2"]
    assert record["logits"]["cell/0_2"][1] is None
    assert "probabilities" not in record

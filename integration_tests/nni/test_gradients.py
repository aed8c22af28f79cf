"""The architecture gradient and the VAdam update of a search in NNI, against double-precision computations by hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
import torch.nn.functional as F
from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty
from nni.nas.profiler import ExpressionProfiler
from nni.nas.profiler.pytorch.flops import FlopsProfiler
from torch import Tensor

from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule

from .searches import Spy, classification, prepare, search
from .spaces import Layers, LinearValues

Named = dict[str, Tensor]
LR, DECAY, MOMENTUM = 0.1, 0.01, 0.9


@dataclass(frozen=True)
class Look:
    """One evaluation of the loss: at which logits and means, on which batch, and what lay on the means as gradients.

    Logits are known up to a constant a label, from the weights that modules mixed with.
    """

    alphas: Named
    means: Named
    weights: Named
    batch: tuple[Tensor, Tensor]
    alpha_grads: Named


@dataclass(frozen=True)
class Search:
    """A search of two iterations: the means before it, every evaluation of the loss, and its module afterwards."""

    start: Named
    looks: list[Look]
    module: DistributionModule


def record(folder: Path, **options: Any) -> Search:
    """Search `Layers` in double precision."""
    optimizer = partial(torch.optim.SGD, momentum=MOMENTUM)
    evaluator = classification(folder, precision="64-true", optimizer=optimizer, learning_rate=LR, weight_decay=DECAY)
    strategy = prepare(Layers(), evaluator, arc_learning_rate=0.1, **options)
    module, looks = strategy.oneshot_module, []
    start = {name: alpha.detach().double() for name, alpha in module.named_arch_parameters().items()}

    def look(batch: Any) -> None:
        alphas = module.named_arch_parameters()
        ours = {id(alpha) for alpha in alphas.values()}
        weights = {n: p for n, p in module.training_module.model.named_parameters() if id(p) not in ours}
        looks.append(
            Look(
                {name: module.mixing(p).detach().log() for name, p in alphas.items()},
                {name: p.detach().clone() for name, p in alphas.items()},
                {name: p.detach().clone() for name, p in weights.items()},
                tuple(batch),
                {name: p.grad.clone() for name, p in alphas.items() if p.grad is not None},
            )
        )

    Spy(strategy, look)
    strategy.run()
    return Search(start, looks, module)


def loss_by_hand(alphas: Named, weights: Named, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of the supernet of `Layers`, written out."""
    x, y = batch
    op, act = alphas["op"].softmax(-1), alphas["act"].softmax(-1)
    h = op[0] * (x @ weights["op.0.weight"].T + weights["op.0.bias"]) + op[1] * (x @ weights["op.1.weight"].T)
    h = h + op[2] * x
    h = act[0] * h.relu() + act[1] * h
    return F.cross_entropy(h @ weights["head.weight"].T + weights["head.bias"], y)


def leaves(tensors: Named) -> Named:
    return {name: t.clone().requires_grad_() for name, t in tensors.items()}


def mean_of(gradients: list[Named]) -> Named:
    return {name: torch.stack([g[name] for g in gradients]).mean(0) for name in gradients[0]}


def gradient_at(look: Look) -> Named:
    alphas = leaves(look.alphas)
    loss_by_hand(alphas, look.weights, look.batch).backward()
    return {name: alpha.grad for name, alpha in alphas.items()}


def assert_close(found: Named, expected: Named, **tolerance: float) -> None:
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


def test_first_order_gradient_is_the_mean_over_the_draws(tmp_path):
    looks = record(tmp_path, num_mc_samples=3).looks
    for start in (0, 4):
        *draws, weight_step = looks[start : start + 4]
        assert_close(weight_step.alpha_grads, mean_of([gradient_at(draw) for draw in draws]), rtol=1e-10, atol=1e-12)


def test_mean_and_precision_follow_algorithm_1(tmp_path):
    """Both iterations of the search, with Algorithm 1 of Khan et al. 2018 written out."""
    search = record(
        tmp_path, num_mc_samples=2, betas=(0.5, 0.9), prior_precision=2.0, initial_precision=3.0, dataset_size=100
    )
    for name, mu in search.start.items():
        m, s = torch.zeros_like(mu), torch.full_like(mu, (3.0 - 2.0) / 100)
        for step, (*draws, weight_step) in enumerate([search.looks[:3], search.looks[3:]], start=1):
            gradients = torch.stack([gradient_at(draw)[name] for draw in draws])
            m = 0.5 * m + 0.5 * (gradients.mean(0) + 2.0 / 100 * mu)
            s = 0.9 * s + 0.1 * gradients.square().mean(0)
            mu = mu - 0.1 * (m / (1 - 0.5**step)) / ((s / (1 - 0.9**step)).sqrt() + 2.0 / 100)
            torch.testing.assert_close(weight_step.means[name], mu, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(search.module.posterior().precision[name], 100 * s + 2.0, rtol=1e-9, atol=1e-12)


def test_draws_have_the_posteriors_scale(tmp_path):
    """sigma = 1 / sqrt(initial_precision), so a precision of 1e8 draws within 1e-3 of the mean."""
    search = record(tmp_path, num_mc_samples=2, initial_precision=1e8, dataset_size=1)
    for look in search.looks[:2]:
        for name, mu in search.start.items():
            off = look.alphas[name] - mu
            assert 0 < float((off - off.mean()).abs().max()) < 1e-3


def unrolled(draw: Look, train_batch: Any, buffers: Named | None) -> Named:
    """Return w' of one SGD step as a differentiable function of the alphas in `draw`."""
    weights = leaves(draw.weights)
    loss = loss_by_hand(draw.alphas, weights, train_batch)
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    new = {}
    for (name, w), g in zip(weights.items(), gradients, strict=True):
        momentum = MOMENTUM * buffers[name] if buffers else 0.0
        new[name] = w - LR * (g + DECAY * w + momentum)
    return new


def second_order_by_hand(draw: list[Look], buffers: Named | None) -> Named:
    """Return d L_val(w'(alpha), alpha) / d alpha by automatic differentiation through the unrolled step."""
    at_w, at_unrolled = draw[0], draw[1]
    alphas = leaves(at_w.alphas)
    new = unrolled(Look(alphas, {}, at_w.weights, at_w.batch, {}), at_w.batch, buffers)
    for name, w in new.items():
        torch.testing.assert_close(at_unrolled.weights[name], w.detach(), rtol=1e-10, atol=1e-12)
    loss_by_hand(alphas, new, at_unrolled.batch).backward()
    return {name: alpha.grad for name, alpha in alphas.items()}


def momentum_buffers(step: Look) -> Named:
    """Return SGD's buffers after its first step, which are the gradients of that step."""
    weights = leaves(step.weights)
    loss_by_hand(step.alphas, weights, step.batch).backward()
    return {name: w.grad + DECAY * w.detach() for name, w in weights.items()}


def test_second_order_gradient_differentiates_through_the_weight_step(tmp_path):
    """Both iterations; in the second SGD has momentum. The implicit part is a finite difference, good to 1 %."""
    looks = record(tmp_path, num_mc_samples=2, order="second").looks
    buffers = None
    for steps in (looks[:9], looks[9:]):
        expected = mean_of([second_order_by_hand(steps[:4], buffers), second_order_by_hand(steps[4:8], buffers)])
        direct = mean_of([gradient_at(steps[1]), gradient_at(steps[5])])
        for name, found in steps[8].alpha_grads.items():
            implicit = expected[name] - direct[name]
            assert float(implicit.norm()) > 1e-3 * float(expected[name].norm())
            assert float((found - expected[name]).norm()) < 0.01 * float(implicit.norm())
        buffers = momentum_buffers(steps[8])


class Cost(ExpressionProfiler):
    """Ten units for every step along the candidates of `op`."""

    def __init__(self) -> None:
        self.expression = nni.choice("op", [0, 1, 2]) * 10.0


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("order", ["first", "second"])
def test_penalty_pulls_on_alpha(order, as_dict, tmp_path):
    """The gradient of scale * (expected cost / baseline - 1) joins that of the loss; NNI's own penalty has none."""
    arguments = {"profiler": Cost(), "baseline": 5.0, "scale": 3.0}
    penalty = arguments if as_dict else ExpectationProfilerPenalty(**arguments)
    looks = record(tmp_path, num_mc_samples=1, order=order, penalty=penalty).looks
    draw, weight_step = (looks[0], looks[1]) if order == "first" else (looks[1], looks[4])
    alphas = leaves(draw.alphas)
    expected_cost = alphas["op"].softmax(-1) @ torch.tensor([0.0, 10.0, 20.0], dtype=torch.float64)
    (3.0 * (expected_cost / 5.0 - 1)).backward()
    assert float(alphas["op"].grad.norm()) > 0.1
    pull = {"op": alphas["op"].grad, "act": torch.zeros_like(alphas["act"])}
    unpenalised = gradient_at(draw) if order == "first" else second_order_by_hand(looks[:4], None)
    expected = {name: unpenalised[name] + pull[name] for name in pull}
    assert_close(weight_step.alpha_grads, expected, rtol=1e-3, atol=1e-6)


def test_heavy_penalty_on_flops_makes_the_narrowest_layer_the_most_probable(tmp_path):
    profiler = FlopsProfiler(LinearValues(), torch.randn(1, 8))
    penalty = {"profiler": profiler, "baseline": 50.0, "scale": 100.0}
    strategy = search(
        LinearValues(), classification(tmp_path, max_epochs=5), penalty=penalty, arc_learning_rate=0.5, num_mc_samples=1
    )
    assert next(strategy.iterate_samples()).sample == {"width": 2}
    assert strategy.posterior.mean["width"].argsort(descending=True).tolist() == [0, 1, 2]

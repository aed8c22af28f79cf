"""One iteration of Algorithm 1, watched from inside the evaluator's training_step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader
from torch import Tensor
from torch.utils.data import RandomSampler, Subset, SubsetRandomSampler

from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule

from .searches import VAL_MARK, Spy, classification, is_training, loaders, prepare, random_data, search
from .spaces import Layers, SharedCells

M = 3


@dataclass(frozen=True)
class Look:
    """What the evaluator's module saw when its loss was evaluated."""

    training: bool
    mixing: dict[str, Tensor]
    means: dict[str, Tensor]
    weights: dict[str, Tensor]
    weight_grads: dict[str, Tensor | None]
    weights_need_grad: bool
    mixing_needs_grad: bool


def weights_of(module: DistributionModule) -> dict[str, torch.nn.Parameter]:
    alphas = {id(alpha) for alpha in module.arch_parameters()}
    return {name: p for name, p in module.training_module.named_parameters() if id(p) not in alphas}


def mixing_of(module: DistributionModule) -> dict[str, Tensor]:
    """Return label -> the weights that its mixed modules use now."""
    return {label: module.mixing(alpha) for label, alpha in module.named_arch_parameters().items()}


def copies(tensors: dict[str, Tensor | None]) -> dict[str, Any]:
    return {name: None if t is None else t.detach().clone() for name, t in tensors.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all tensors are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def watch(strategy: Any) -> list[Look]:
    """Return a list that fills with one record per evaluation of the loss."""
    module, looks = strategy.oneshot_module, []

    def look(batch: Any) -> None:
        mixing, weights = mixing_of(module), weights_of(module)
        looks.append(
            Look(
                training=is_training(batch),
                mixing=copies(mixing),
                means=copies(module.named_arch_parameters()),
                weights=copies(weights),
                weight_grads=copies({name: p.grad for name, p in weights.items()}),
                weights_need_grad=all(p.requires_grad for p in weights.values()),
                mixing_needs_grad=all(w.requires_grad for w in mixing.values()),
            )
        )

    Spy(strategy, look)
    return looks


def iterations(looks: list[Look], length: int) -> list[list[Look]]:
    return [looks[start : start + length] for start in range(0, len(looks), length)]


@pytest.fixture
def first_order(tmp_path) -> list[list[Look]]:
    """Two iterations of a first-order search with M = 3, step by step."""
    strategy = prepare(Layers(), classification(tmp_path), num_mc_samples=M, arc_learning_rate=0.1)
    looks = watch(strategy)
    strategy.run()
    return iterations(looks, M + 1)


@pytest.fixture
def second_order(tmp_path) -> list[list[Look]]:
    """Two iterations of a second-order search with M = 3."""
    strategy = prepare(Layers(), classification(tmp_path), num_mc_samples=M, order="second", arc_learning_rate=0.1)
    looks = watch(strategy)
    strategy.run()
    return iterations(looks, 4 * M + 1)


def test_architecture_step_draws_m_times_on_validation_data_then_weights_train(first_order):
    assert [[look.training for look in steps] for steps in first_order] == [[False] * M + [True]] * 2
    for *draws, weight_step in first_order:
        assert len({float(look.mixing["op"][0]) for look in [*draws, weight_step]}) == M + 1


def test_nothing_is_written_into_the_means_to_draw(first_order, second_order):
    for *draws, weight_step in [*first_order, *second_order]:
        assert all(equal(look.means, draws[0].means) for look in draws)
        assert not equal(weight_step.means, draws[0].means)  # the step did move them


def test_first_order_step_leaves_the_weights_and_computes_no_gradient_for_them(first_order):
    for *draws, weight_step in first_order:
        assert not any(look.weights_need_grad for look in draws)
        assert weight_step.weights_need_grad
        assert all(equal(look.weights, weight_step.weights) for look in draws)
    assert all(grad is None for grad in first_order[0][-1].weight_grads.values())
    assert not equal(first_order[0][0].weights, first_order[1][0].weights)  # the weight step did move them


def test_the_weight_step_computes_no_gradient_for_the_alphas(first_order, second_order):
    for *draws, weight_step in [*first_order, *second_order]:
        assert all(look.mixing_needs_grad for look in draws)
        assert not weight_step.mixing_needs_grad


def test_second_order_step_evaluates_both_losses_and_leaves_the_weights(second_order):
    for *draws, weight_step in second_order:
        assert [look.training for look in draws] == [True, False, True, True] * M
        assert weight_step.training
        at_w, unrolled, above, below = draws[:4]
        assert equal(at_w.weights, weight_step.weights)
        assert not any(equal(look.weights, weight_step.weights) for look in (unrolled, above, below))
        assert all(equal(draws[k].weights, weight_step.weights) for k in range(0, 4 * M, 4))
        for draw in iterations(draws, 4):
            assert all(equal(look.mixing, draw[0].mixing) for look in draw)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("weight_step_alpha", ["mean", "sample"])
def test_weight_step_is_at_the_mean_or_at_a_draw(weight_step_alpha, order, tmp_path):
    strategy = prepare(
        Layers(), classification(tmp_path), num_mc_samples=1, order=order, weight_step_alpha=weight_step_alpha
    )
    looks, means = watch(strategy), []
    module = strategy.oneshot_module
    module.on_train_batch_end = lambda *args: means.append(copies(mixing_of(module)))
    strategy.run()
    weight_steps = iterations(looks, 2 if order == "first" else 5)
    for steps, mean in zip(weight_steps, means, strict=True):
        assert equal(steps[-1].mixing, mean) == (weight_step_alpha == "mean")
        assert not equal(steps[0].mixing, mean)
        assert not equal(steps[0].mixing, steps[-1].mixing)


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("failing", [2, 3])
def test_modules_mix_with_the_mean_again_when_the_training_step_raises(failing, order, tmp_path):
    strategy = prepare(Layers(), classification(tmp_path), num_mc_samples=2, order=order, weight_step_alpha="sample")
    module = strategy.oneshot_module
    before, weights = copies(module.named_arch_parameters()), copies(weights_of(module))
    calls, drawn = [], []

    def fail(batch: Any) -> None:
        calls.append(batch)
        if len(calls) == failing:
            drawn.append(copies(mixing_of(module)))
            raise RuntimeError("the user's training_step failed")

    Spy(strategy, fail)
    with pytest.raises(RuntimeError, match="the user's training_step failed"):
        strategy.run()
    assert not equal(drawn[0], copies(mixing_of(module)))
    torch.testing.assert_close(mixing_of(module)["op"], module.named_arch_parameters()["op"].softmax(-1))
    if order == "second" or failing == 2:  # in the architecture step: the posterior is as it was
        assert equal(copies(module.named_arch_parameters()), before)
    else:
        steps = [module.distribution.optimizer.state[alpha]["step"] for alpha in module.arch_parameters()]
        assert steps == [1] * len(steps)
        assert all((alpha - before[name]).abs().max() < 0.01 for name, alpha in module.named_arch_parameters().items())
    assert equal(copies(weights_of(module)), weights)
    assert all(p.requires_grad for p in module.parameters())


def test_warm_up_trains_weights_and_leaves_the_posterior(tmp_path):
    strategy = prepare(
        Layers(), classification(tmp_path, max_epochs=3), num_mc_samples=M, warmup_epochs=2, arc_learning_rate=0.1
    )
    looks = watch(strategy)
    module = strategy.oneshot_module
    start = copies(module.named_arch_parameters())
    strategy.run()
    warm_up, rest = looks[:4], looks[4:]
    assert all(look.training for look in warm_up)
    assert all(equal(look.means, start) for look in warm_up)
    assert not equal(warm_up[0].weights, warm_up[-1].weights)
    assert [look.training for look in rest] == [False, False, False, True] * 2
    assert {state["step"] for state in module.distribution.optimizer.state.values()} == {2}


def test_a_search_that_only_warms_up_keeps_the_initial_posterior(tmp_path):
    strategy = search(
        Layers(),
        classification(tmp_path, max_epochs=2, max_steps=2),  # it ends with the warm-up
        warmup_epochs=1,
        initial_precision=4.0,
        weight_step_alpha="sample",
    )
    posterior = strategy.posterior
    assert all(mu.abs().max() < 0.01 for mu in posterior.mean.values())
    assert all(torch.allclose(p, torch.tensor(4.0)) for p in posterior.precision.values())


def test_newton_update_runs_and_shrinks_sigma(tmp_path):
    strategy = search(Layers(), classification(tmp_path), update="newton", arc_learning_rate=0.01)
    module = strategy.oneshot_module
    assert all(
        {"s", "previous_mu"} <= set(module.distribution.optimizer.state[alpha]) for alpha in module.arch_parameters()
    )
    assert all((p >= 1).all() and (p > 1).any() for p in strategy.posterior.precision.values())


def test_weight_optimizer_holds_all_weights_and_no_alpha(tmp_path):
    strategy = search(SharedCells(), classification(tmp_path))
    module = strategy.oneshot_module
    weight_optimizer, vadam = module.trainer.optimizers
    held = {id(p) for group in weight_optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in weights_of(module).values()}
    assert vadam is module.distribution.optimizer
    in_vadam = [id(p) for group in vadam.param_groups for p in group["params"]]
    assert in_vadam == [id(alpha) for alpha in module.named_arch_parameters().values()]


def dataset_size_of(tmp_path: Any, val_loader: Any, **options: Any) -> float:
    evaluator = classification(tmp_path, train_dataloaders=loaders()["train_dataloaders"], val_dataloaders=val_loader)
    return search(Layers(), evaluator, num_mc_samples=1, **options).oneshot_module.distribution.optimizer.dataset_size


VALIDATION = random_data(24, mark=VAL_MARK)


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (lambda: DataLoader(VALIDATION, batch_size=8), 24),
        (lambda: DataLoader(Subset(VALIDATION, range(16)), batch_size=8), 16),
        (lambda: DataLoader(VALIDATION, batch_size=8, sampler=RandomSampler(VALIDATION, True, 40)), 40),
        (lambda: DataLoader(VALIDATION, batch_size=8, sampler=SubsetRandomSampler(range(10))), 10),
    ],
    ids=["dataset", "subset", "random_sampler", "subset_sampler"],
)
def test_dataset_size_is_that_of_the_validation_loader(loader, expected, tmp_path):
    assert dataset_size_of(tmp_path, loader()) == expected


def test_dataset_size_given_wins(tmp_path):
    assert dataset_size_of(tmp_path, DataLoader(VALIDATION, batch_size=8), dataset_size=1000) == 1000


def test_initial_sigma_does_not_depend_on_the_dataset_size(tmp_path):
    warm_up = classification(tmp_path, max_epochs=2, max_steps=2)
    strategy = search(Layers(), warm_up, warmup_epochs=1, initial_precision=2.0, prior_precision=0.5)
    module = strategy.oneshot_module
    assert module.distribution.optimizer.dataset_size == 16
    assert all(torch.allclose(p, torch.tensor(2.0)) for p in strategy.posterior.precision.values())

"""What an iteration of each method does: its passes and draws, what it computes, and the gradients that it follows."""

from __future__ import annotations

import pytest
import torch

from balenas_plugin.adapters.naslib.naslib_host import AskingMixedOp
from balenas_plugin.bayes.architect import VirtualStep, second_order_gradient
from balenas_plugin.errors import OptionError

from .searches import BOTH_SPACES, adapted, batch, copies, same, step


def alphas_at_edges(graph):
    return list(graph.get_all_edge_data("alpha", private_edge_data=True))


def mixing_weights(optimizer):
    return copies(optimizer.mixing(alpha) for alpha in optimizer.alphas)


@pytest.fixture
def passes(monkeypatch):
    """Return a function that records the mixing weights of every pass of an optimizer's graph, an entry an alpha.

    No pass finds anything but the distribution's parameters in the alphas.
    """

    def record(optimizer):
        seen, forward = [], optimizer.graph.forward
        before = copies(optimizer.alphas)

        def recording(images, *arguments):
            edges = alphas_at_edges(optimizer.graph)
            assert {id(a) for a in edges} == {id(a) for a in optimizer.alphas}  # copies of a cell share their alphas
            learned = all(a.grad is not None for a in optimizer.alphas)
            assert same(before, optimizer.alphas) is not learned
            seen.append(mixing_weights(optimizer))
            return forward(images, *arguments)

        monkeypatch.setattr(optimizer.graph, "forward", recording)
        return seen

    return record


@pytest.mark.parametrize(("preset", "space"), BOTH_SPACES)
def test_passes_of_an_iteration(preset, space, passes):
    optimizer = adapted(space, preset=preset)
    order, mean = optimizer.update_order, mixing_weights(optimizer)
    seen = passes(optimizer)
    optimizer.new_epoch(0)
    step(optimizer)
    after = mixing_weights(optimizer)
    learns = optimizer.distribution.learns and order.architecture_every == 1
    assert same(mean, after) is not learns
    weight_step = seen[0] if order.first == "weights" or order.levels == 1 or not learns else seen[-1]
    at_the_mean = mean if order.first == "weights" else after
    perturbation = optimizer.options.perturbation
    assert same(weight_step, at_the_mean) is (order.weight_step == "mean" and perturbation is None)
    draws = optimizer.distribution.num_mc_samples
    attack = 9 if perturbation == "sdarts-adv" else 0
    assert len(seen) == attack + (
        5 if order.order == "second" else draws + 1
    )  # with levels: 1, the other one is NASLib's validation
    for weights in (w for a_pass in seen for w in a_pass):
        torch.testing.assert_close(weights.sum(), torch.ones(()))


def test_every_draw_is_another_one(passes):
    optimizer = adapted(num_mc_samples=2)
    mean, seen = mixing_weights(optimizer), passes(optimizer)
    step(optimizer)
    first, second, _ = seen
    assert not same(first, mean)
    assert not same(first, second)
    assert int(optimizer.arch_optimizer.state[optimizer.alphas[0]]["step"]) == 1


def computed(optimizer):
    """Return a list that gets the number of operations that each mixed edge computes in a pass."""
    counts = []
    for mixed in (m for m in optimizer.graph.modules() if isinstance(m, AskingMixedOp)):
        calls = []
        for operation in mixed.primitives:
            operation.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))

        def forward(x, edge_data, calls=calls, forward=mixed.forward):
            calls.clear()
            result = forward(x, edge_data)
            counts.append(len(calls))
            return result

        mixed.forward = forward  # which NASLib calls itself
    return counts


@pytest.mark.parametrize("others", ["scalar", "none"])
def test_gdas_computes_the_drawn_operation_alone(others, passes):
    optimizer = adapted(preset="GDAS", others=others)
    counts, seen = computed(optimizer), passes(optimizer)
    optimizer.new_epoch(0)
    step(optimizer)
    assert set(counts) == {1}
    assert all(sorted(w.tolist()) == [0, 0, 0, 0, 1] for a_pass in seen for w in a_pass)
    assert not same(*seen)
    not_drawn = [a.grad[w == 0] for a, w in zip(optimizer.alphas, seen[1], strict=True)]
    assert any(bool(g.any()) for g in not_drawn)  # through the relaxed sample in both forms


def test_the_forms_of_what_is_not_drawn_have_other_gradients():
    gradients = []
    for others in ("scalar", "none"):
        optimizer = adapted(preset="GDAS", others=others)
        optimizer.new_epoch(0)
        step(optimizer)
        gradients.append(copies(alpha.grad for alpha in optimizer.alphas))
    assert not same(*gradients)


def test_what_is_not_drawn_takes_part_as_published_for_the_space():
    for space, others in (("nb201", "scalar"), ("nb301", "none")):
        mixed = [m for m in adapted(space, preset="GDAS").graph.modules() if isinstance(m, AskingMixedOp)]
        assert {m.others for m in mixed} == {others}


def test_hooks_of_naslib_see_one_hot_weights_of_all_operations():
    optimizer = adapted(preset="GDAS")
    hooked = []
    for mixed in (m for m in optimizer.graph.modules() if isinstance(m, AskingMixedOp)):
        mixed.post_process_hook = lambda weights, edge_data: hooked.append(weights) or weights
    counts = computed(optimizer)
    optimizer.new_epoch(0)
    step(optimizer)
    assert set(counts) == {5}
    assert all(sorted(weights.tolist()) == [0, 0, 0, 0, 1] for weights in hooked)


def test_temperature_follows_the_epochs_of_the_trainer():
    optimizer = adapted(preset="GDAS", epochs=3)
    found = []
    for epoch in range(3):
        optimizer.new_epoch(epoch)
        found.append(optimizer.distribution.temperature)
    assert found == pytest.approx([10, 5.05, 0.1])
    with pytest.raises(OptionError, match="epochs must be the number of them that the trainer has, more than 3, got 3"):
        optimizer.new_epoch(3)
    with pytest.raises(OptionError, match="more than 0, got None"):
        adapted(preset="GDAS", epochs=None)
    for preset in ("DSNAS", "ENAS"):  # which change with the epochs, but not with their number
        adapted(preset=preset, epochs=None).new_epoch(0)


def test_snas_learns_both_levels_from_the_training_batch():
    optimizer = adapted(preset="SNAS")
    optimizer.new_epoch(0)
    train, val = batch(1, side=8), batch(1001, side=8)
    optimizer.step(train, val)
    once = copies(optimizer.alphas)
    other = adapted(preset="SNAS")
    other.new_epoch(0)
    _, logits_val, _, val_loss = other.step(train, batch(7, side=8))
    assert same(once, other.alphas)
    torch.testing.assert_close(val_loss, other.loss(logits_val, batch(7, side=8)[1]))


def test_architecture_steps_every_so_many_iterations():
    optimizer = adapted(preset="DARTS", architecture_every=2)
    for _ in range(2):  # counted anew in every epoch
        optimizer.new_epoch(0)
        before = copies(optimizer.alphas)
        step(optimizer)
        assert same(before, optimizer.alphas)
        step(optimizer)
        assert not same(before, optimizer.alphas)
        step(optimizer)


@pytest.fixture
def clipped(monkeypatch):
    """Return a function that makes two iterations.

    It returns the gradients of alphas in the clipped norm of each, and those of the last architecture step before it.
    """
    norm, seen = torch.nn.utils.get_total_norm, []

    def recorded(gradients):
        seen.append(copies(g for g in gradients if g.shape == (5,)))  # as alphas alone have it
        return norm(gradients)

    monkeypatch.setattr(torch.nn.utils, "get_total_norm", recorded)

    def run(**options):
        seen.clear()
        optimizer = adapted(seed=1, grad_clip=1e9, **options)  # which changes nothing, so that all runs are the same
        optimizer.new_epoch(0)
        of_architecture_steps = []
        for _ in range(2):
            step(optimizer)
            of_architecture_steps.append(copies(alpha.grad for alpha in optimizer.alphas))
        return *seen, of_architecture_steps[0 if optimizer.update_order.first == "weights" else 1]

    return run


@pytest.mark.parametrize("preset", ["DARTS", "GDAS"])  # weights are trained at the mean, and at a sample
def test_the_architectures_gradient_counts_in_the_clipped_norm_if_asked(preset, clipped):
    assert clipped(preset=preset)[:2] == ([], [])
    first, second, _ = clipped(preset=preset, clip_with="architecture")
    assert len(first) == len(second) == 6
    assert all(bool(g.any()) for g in first)
    _, both, stale = clipped(preset=preset, clip_with="stale-architecture")
    for total, fresh, before in zip(both, second, stale, strict=True):
        torch.testing.assert_close(total, fresh + before)


def test_antithetic_draws_are_pairs(passes):
    optimizer = adapted(num_mc_samples=2, antithetic=True)
    mean, seen = copies(optimizer.alphas), passes(optimizer)
    step(optimizer)
    for mu, first, second in zip(mean, seen[0], seen[1], strict=True):
        logits = (first.log() + second.log()) / 2  # up to a constant
        torch.testing.assert_close(logits - logits.mean(), mu - mu.mean(), rtol=1e-4, atol=1e-5)
        assert not torch.equal(first, second)


def test_one_sided_difference_saves_a_pass(passes):
    for finite_difference, count in (("central", 5), ("one-sided", 4)):
        optimizer = adapted(order="second", finite_difference=finite_difference)
        seen = passes(optimizer)
        step(optimizer)
        assert len(seen) == count


def test_weights_trained_at_a_draw(passes):
    optimizer = adapted(weight_step_alpha="sample")
    seen = passes(optimizer)
    step(optimizer)
    assert len(seen) == 2
    assert not same(seen[1], mixing_weights(optimizer))


def test_warmup_trains_the_weights_alone():
    optimizer = adapted(warmup_epochs=1)
    mean = copies(optimizer.alphas)
    optimizer.new_epoch(0)
    _, logits_val, _, val_loss = step(optimizer)
    assert logits_val.shape == (2, 10)
    assert float(val_loss) > 0
    assert same(mean, optimizer.alphas)
    optimizer.new_epoch(1)
    step(optimizer)
    assert not same(mean, optimizer.alphas)


def test_first_order_gradient_is_that_of_the_validation_loss():
    optimizer = adapted()
    optimizer.distribution.noise = torch.zeros_like  # draws are the mean
    images, classes = batch(1001, side=8)
    loss = optimizer.loss(optimizer.graph(images), classes)
    wanted = torch.autograd.grad(loss, optimizer.alphas)
    optimizer.step(batch(1, side=8), (images, classes))
    for alpha, gradient in zip(optimizer.alphas, wanted, strict=True):
        torch.testing.assert_close(alpha.grad, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("option", [{"order": "second"}, {"unrolled": True}])
def test_second_order_gradient_unrolls_naslibs_weight_step(option):
    optimizer = adapted(**option, learning_rate=0.02, momentum=0.8, weight_decay=0.01)
    step(optimizer)  # now there is momentum
    optimizer.distribution.noise = torch.zeros_like
    train, val = batch(1, side=8), batch(1001, side=8)
    weights = list(optimizer.graph.parameters())
    buffers = [optimizer.op_optimizer.state[w]["momentum_buffer"] for w in weights]
    wanted, loss = second_order_gradient(
        train_loss=lambda: optimizer.loss(optimizer.graph(train[0]), train[1]),
        val_loss=lambda: optimizer.loss(optimizer.graph(val[0]), val[1]),
        alphas=optimizer.alphas,
        weights=weights,
        step=VirtualStep(lr=0.02, momentum=0.8, weight_decay=0.01, momentum_buffers=buffers),
    )
    direct = torch.autograd.grad(optimizer.loss(optimizer.graph(val[0]), val[1]), optimizer.alphas)
    _, logits_val, _, val_loss = optimizer.step(train, val)
    torch.testing.assert_close(val_loss, loss)
    assert logits_val.shape == (2, 10)
    for alpha, gradient in zip(optimizer.alphas, wanted, strict=True):
        torch.testing.assert_close(alpha.grad, gradient, rtol=1e-2, atol=1e-6)
        assert float((alpha.grad - gradient).norm()) < 0.05 * float(gradient.norm())
    assert not same(direct, wanted)

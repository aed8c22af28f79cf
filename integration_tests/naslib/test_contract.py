"""What NASLib asks of an optimizer, and what ours promise in it: the same tests for the real one and its double."""

from __future__ import annotations

import pytest
import torch
from naslib.optimizers import DARTSOptimizer

from balenas_plugin.adapters.naslib import optimizer as optimizer_module
from balenas_plugin.adapters.naslib.naslib_host import AskingMixedOp
from balenas_plugin.bayes.architect import VirtualStep, second_order_gradient
from balenas_plugin.distributions import Draw
from balenas_plugin.distributions.point import Point
from balenas_plugin.errors import NonFiniteLossError, OptionError
from balenas_plugin.naslib import BaLeNASOptimizer, DistributionOptimizer
from balenas_plugin.presets import Preset

from .searches import PRESETS, SPACES, Answers, adapted, batch, config, set_means, step

BOTH_SPACES = [(preset, "nb201") for preset in PRESETS] + [("BaLeNAS", "nb301"), ("GDAS", "nb301")]


def copies(tensors):
    return [t.detach().clone() for t in tensors]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


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


def test_is_a_darts_optimizer():
    assert issubclass(BaLeNASOptimizer, DARTSOptimizer)
    optimizer = adapted()
    assert optimizer.using_step_function
    assert isinstance(optimizer.op_optimizer, optimizer.get_op_optimizer())
    assert optimizer.get_checkpointables()["model"] is optimizer.graph
    assert len(optimizer.architectural_weights) == 6
    assert 0 < optimizer.get_model_size() < 3
    assert isinstance(optimizer.get_model_size(), float)


def test_both_calling_styles():
    from_config = BaLeNASOptimizer(config(num_mc_samples=2, arch_learning_rate=0.01))
    from_config.adapt_search_space(SPACES["nb201"](), dataset_api=None)
    from_keywords = BaLeNASOptimizer(**config(num_mc_samples=2, arch_learning_rate=0.01).search)
    from_keywords.adapt_search_space(SPACES["nb201"](), "cifar10")
    for optimizer in (from_config, from_keywords):
        assert optimizer.dataset == "cifar10"
        assert optimizer.grad_clip == 5
        assert optimizer.arch_optimizer.num_mc_samples == 2
        assert optimizer.arch_optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize(("preset", "space"), BOTH_SPACES)
def test_step_returns_what_the_trainer_reads(preset, space):
    optimizer = adapted(space, preset=preset)
    optimizer.new_epoch(0)
    means, weights = copies(optimizer.alphas), copies(optimizer.graph.parameters())
    logits_train, logits_val, train_loss, val_loss = step(optimizer)
    assert logits_train.shape == logits_val.shape == (2, 10)
    assert f"{train_loss:.5f} {val_loss:.5f}"
    assert torch.isfinite(train_loss.detach())
    assert torch.isfinite(val_loss.detach())
    assert not same(means, optimizer.alphas)
    assert not same(weights, optimizer.graph.parameters())
    assert all(p.requires_grad for p in optimizer.graph.parameters())


def test_alphas_are_not_weights():
    optimizer = adapted()
    alphas = {id(a) for a in optimizer.alphas}
    assert not alphas & {id(p) for p in optimizer.graph.parameters()}
    assert alphas == {id(a) for a in optimizer.architectural_weights}


@pytest.mark.parametrize(("preset", "space"), BOTH_SPACES)
def test_passes_of_an_iteration(preset, space, passes):
    optimizer = adapted(space, preset=preset)
    order, mean = optimizer.options, mixing_weights(optimizer)
    seen = passes(optimizer)
    optimizer.new_epoch(0)
    step(optimizer)
    after = mixing_weights(optimizer)
    assert not same(mean, after)
    weight_step = seen[0] if order.first == "weights" or order.levels == 1 else seen[-1]
    at_the_mean = mean if order.first == "weights" else after
    assert same(weight_step, at_the_mean) is (order.weight_step_alpha == "mean")
    assert len(seen) == (5 if order.order == "second" else 2)  # with levels: 1, the other one is NASLib's validation
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

        def forward(*arguments, calls=calls, forward=mixed.forward):
            calls.clear()
            result = forward(*arguments)
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
    assert all(bool(g.any()) for g in not_drawn)  # through the relaxed sample in both forms


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
        optimizer = adapted(**options)
        optimizer.new_epoch(0)
        of_architecture_steps = []
        for _ in range(2):
            step(optimizer)
            of_architecture_steps.append(copies(alpha.grad for alpha in optimizer.alphas))
        return *seen, of_architecture_steps[0 if optimizer.options.first == "weights" else 1]

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


@pytest.mark.parametrize(("preset", "space"), BOTH_SPACES)
def test_final_architecture_has_the_largest_scores(preset, space):
    optimizer = adapted(space, preset=preset)
    optimizer.new_epoch(0)
    step(optimizer)  # leaves the auxiliary head's output in the graph
    set_means(optimizer, seed=3)
    found = optimizer.get_final_architecture()
    assert optimizer.get_final_architecture().get_hash() == found.get_hash()  # the parameters are untouched
    assert found(batch(5)[0]).shape == (2, 10)
    if space == "nb201":
        posterior = optimizer.posterior
        largest = {k: posterior.choices[k][int(scores.argmax())] for k, scores in posterior.scores.items()}
        assert optimizer.architecture(largest).get_hash() == found.get_hash()
        assert posterior.most_probable(1) == [largest]


@pytest.mark.parametrize("seed", range(3))
def test_our_decisions_in_the_darts_space_are_naslibs(seed):
    from balenas_plugin.adapters.naslib.graph_decisions import cell_decisions
    from balenas_plugin.bayes.decisions import Architectures

    optimizer = adapted("nb301")
    set_means(optimizer, seed)
    architectures = Architectures(cell_decisions(optimizer._alphas), optimizer.posterior)
    sample = architectures.discretise(optimizer.posterior.scores)
    assert "Zero" not in sample.values()
    theirs = optimizer.get_final_architecture().get_hash()
    set_means(optimizer, seed + 100)
    assert optimizer.architecture(sample).get_hash() == theirs
    assert optimizer.get_final_architecture().get_hash() != theirs


@pytest.mark.parametrize(("preset", "space"), [*((preset, "nb201") for preset in PRESETS), ("DrNAS", "nb301")])
def test_selection_takes_the_exporters_best(preset, space):
    optimizer = adapted(space, preset=preset, selection={"n": 3, "proxy": "synflow"})
    optimizer.new_epoch(0)
    step(optimizer)
    set_means(optimizer, seed=0)
    ranked = optimizer.rank()
    values = [found.scores["synflow"] for found in ranked]
    assert values == sorted(values, reverse=True)
    assert all(0 < found.probability <= 1 for found in ranked)
    assert optimizer.get_final_architecture().get_hash() == optimizer.architecture(ranked[0].choices).get_hash()


def test_auxiliary_head_can_be_read():
    optimizer = adapted("nb301")
    found = optimizer.get_final_architecture()
    logits = found(batch(5)[0])
    auxiliary = [value for key, value in found.graph.items() if key.startswith("out_from_")]
    assert [value.shape for value in auxiliary] == [logits.shape]


def test_posterior_in_the_common_notation():
    posterior = adapted().posterior
    assert posterior.labels == ("cell/0_1", "cell/0_2", "cell/0_3", "cell/1_2", "cell/1_3", "cell/2_3")
    assert set(posterior.choices["cell/0_1"]) == {"none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3"}
    assert posterior.std["cell/0_1"].tolist() == [1.0] * 5


def test_benchmark_is_queried_after_every_epoch(caplog):
    optimizer = adapted()
    assert optimizer.test_statistics() is None
    optimizer = BaLeNASOptimizer()
    optimizer.adapt_search_space(SPACES["nb201"](), "cifar10", dataset_api=Answers())
    before = torch.get_rng_state()
    assert optimizer.test_statistics() == 90.0
    assert torch.equal(before, torch.get_rng_state())
    optimizer._dataset_api = {}
    assert optimizer.test_statistics() is None
    assert "KeyError" in caplog.text  # NASLib would hide it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_mc_sample": 2}, "did you mean 'num_mc_samples'"),
        ({"num_mc_samples": 0}, "num_mc_samples must be a whole number"),
        ({"order": "third"}, "order must be one of first, second"),
        ({"order": "first", "unrolled": True}, "leave one of them out"),
        ({"arch_learning_rate": "fast"}, "arch_learning_rate must be a positive number"),
        ({"initial_precision": 0.5}, "is below prior_precision"),
        ({"weight_step_alpha": "draw"}, "weight_step_alpha must be one of mean, sample"),
        ({"warmup_epochs": -1}, "warmup_epochs must be a whole number"),
        ({"selection": {"proxy": "synflo"}}, "did you mean 'synflow'"),
        ({"selection": "synflo"}, "selection must be one of synflow, synflow-enumerated, supernet, synflow\\+supernet"),
        ({"selection": 3}, r"selection must be one of synflow, .*, synflow\+supernet or a mapping of options"),
        ({"antithetic": True, "num_mc_samples": 1}, "antithetic draws come in pairs"),
        ({"unrolled": "no"}, "unrolled must be"),
        ({"finite_difference": "forward"}, "finite_difference must be one of central, one-sided"),
        ({"dataset_size": 0}, "dataset_size must be a positive number"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"levels": 1}, "levels: 1 has one draw for both levels"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        BaLeNASOptimizer(**options)


def test_other_optimizers_options_are_ignored():
    for preset in PRESETS:
        DistributionOptimizer(
            preset=preset, tau_max=10, warm_start_epochs=0, epochs=50, k=10, something_of_the_future=1
        )


def test_options_of_presets_and_distributions():
    assert adapted(preset="DrNAS", anchor="kl").distribution.divergence_scale == 1e-3
    group = adapted(preset="DARTS", arch_learning_rate=0.01, arch_weight_decay=0.1).arch_optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.01, 0.1)
    assert adapted(preset="GDAS", temperature=[5, 1]).distribution.temperatures == (5, 1)
    assert adapted(preset="GDAS", first="architecture").options.first == "architecture"
    with pytest.raises(OptionError, match="others must be one of scalar, none"):
        DistributionOptimizer(preset="GDAS", others="all")
    with pytest.raises(OptionError, match="DrNAS has no option 'anchr'; did you mean 'anchor'"):
        DistributionOptimizer(preset="DrNAS", anchr="kl")
    with pytest.raises(OptionError, match=r"DrNas.*did you mean 'DrNAS'"):
        DistributionOptimizer(preset="DrNas")


def test_a_part_that_naslib_lacks_is_refused(monkeypatch):
    of_nni = Preset(name="Partial", distribution="point", options={"channels": 4}, summary="", source="")
    monkeypatch.setattr(optimizer_module, "get_preset", lambda name: of_nni)
    with pytest.raises(OptionError, match="Partial has channels, which searches in NASLib do not have"):
        DistributionOptimizer(preset="Partial")


class Tempered(Point):
    """A distribution of another package: softmax at another temperature."""

    name = "tempered"

    def __init__(self, parameters, *, sharpness=2.0, **options):
        super().__init__(parameters, **options)
        self.sharpness = sharpness

    def draw(self, parameters):
        return Draw(parameters, {label: (a * self.sharpness).softmax(-1) for label, a in parameters.items()})


def test_a_distribution_of_ones_own():
    optimizer = adapted(preset=None, distribution=Tempered, sharpness=3.0, weight_step_alpha="sample")
    before = copies(optimizer.alphas)
    step(optimizer)
    assert not same(before, optimizer.alphas)
    assert optimizer.distribution.sharpness == 3
    assert isinstance(DistributionOptimizer(distribution="dirichlet").options.order, str)
    for both in ({}, {"preset": "DrNAS", "distribution": "dirichlet"}):
        with pytest.raises(OptionError, match=r"a preset, one of BaLeNAS, .*, or a distribution, one of dirichlet"):
            DistributionOptimizer(**both)


def test_a_config_needs_its_section():
    with pytest.raises(OptionError, match="section search"):
        BaLeNASOptimizer(0.025)


def test_dataset_size():
    assert adapted().arch_optimizer.dataset_size == 25_000
    assert adapted(data_size=100).arch_optimizer.dataset_size == 100
    assert adapted(data_size=100, dataset_size=7).arch_optimizer.dataset_size == 7


def test_a_loss_that_breaks_is_named():
    optimizer = adapted()
    images, classes = batch(1, side=8)
    mean = copies(optimizer.alphas)
    blamed = r"validation loss became nan in epoch .\. The data are to blame, .*: batch\['val'\]\[0\] of shape"
    with pytest.raises(NonFiniteLossError, match=blamed):
        optimizer.step((images, classes), (images * float("nan"), classes))
    assert same(mean, optimizer.alphas)
    assert all(p.requires_grad for p in optimizer.graph.parameters())

"""Options of presets, of distributions and of NASLib, and what is refused."""

from __future__ import annotations

import pytest

from balenas_plugin.adapters.naslib import optimizer as optimizer_module
from balenas_plugin.distributions import Draw
from balenas_plugin.distributions.point import Point
from balenas_plugin.errors import OptionError
from balenas_plugin.naslib import BaLeNASOptimizer, DistributionOptimizer
from balenas_plugin.presets import Preset
from balenas_plugin.search import Order

from .searches import PRESETS, adapted, copies, same, step


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
        ({"selection": 3}, r"selection must be one of synflow, .*, darts-pt or a mapping of options"),
        ({"antithetic": True, "num_mc_samples": 1}, "antithetic draws come in pairs"),
        ({"unrolled": "no"}, "unrolled must be"),
        ({"finite_difference": "forward"}, "finite_difference must be one of central, one-sided"),
        ({"dataset_size": 0}, "dataset_size must be a positive number"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"levels": 1}, "levels: 1 has one draw for both levels"),
        ({"mixed_op": "partial-channels"}, "mixed_op, which searches in NASLib do not have .* in full"),
        ({"schedule": "darts-es"}, "schedule, .* one network from its first epoch to its last"),
        ({"cost": {"name": "flops"}}, "BaLeNAS has cost, .*: search with it in NNI"),
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
    assert adapted(preset="GDAS", first="architecture").update_order.first == "architecture"
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
    assert DistributionOptimizer(distribution="dirichlet").update_order == Order()
    for both in ({}, {"preset": "DrNAS", "distribution": "dirichlet"}):
        with pytest.raises(OptionError, match=r"a preset, one of BaLeNAS, .*, or a distribution, one of binary-gates"):
            DistributionOptimizer(**both)


def test_a_config_needs_its_section():
    with pytest.raises(OptionError, match="section search"):
        BaLeNASOptimizer(0.025)


def test_dataset_size():
    assert adapted().arch_optimizer.dataset_size == 25_000
    assert adapted(data_size=100).arch_optimizer.dataset_size == 100
    assert adapted(data_size=100, dataset_size=7).arch_optimizer.dataset_size == 7

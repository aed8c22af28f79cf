"""A fused supernet equals NNI's: values, gradients, statistics, checkpoints, frozen networks."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.hub.pytorch import DARTS, NasBench201
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.oneshot.pytorch.supermodule.differentiable import (
    DifferentiableMixedCell,
    DifferentiableMixedLayer,
)
from nni.nas.space import RawFormatModelSpace
from torch import Tensor, nn

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.strategies.nni_strategies import build_strategy
from balenas_plugin.adapters.nni.supernets.drawn import DrawnCell, DrawnLayer
from balenas_plugin.adapters.nni.supernets.fused import (
    FusedMixedCell,
    FusedMixedLayer,
    FusedNasBench201Cell,
    fusion_report,
)
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.distributions import Draw
from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.search.mixing import mixing_of

from .searches import classification, loaders, search
from .spaces import CLASSES, Layers

IMAGE = (3, 8, 8)


def _block(kernel_size: int) -> nn.Sequential:
    convolution = nn.Conv2d(4, 4, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(4))


class Own(nn.Module):
    """An operation that nobody but itself understands."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate)


class ImageLayers(ModelSpace):
    """LayerChoices of image operations."""

    def __init__(self, flatten: Callable[[Tensor], Tensor] = lambda x: x.flatten(1)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = LayerChoice(
            {"a": _block(3), "b": _block(3), "thin": _block(1), "skip": nn.Identity(), "own": Own()}, label="first"
        )
        self.second = LayerChoice([nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), _block(1)], label="second")
        self.head = nn.Linear(4 * 64, CLASSES)
        self.flatten = flatten

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.second(self.first(self.stem(x)))))


SPACES: dict[str, Callable[[], ModelSpace]] = {
    "NasBench201": lambda: NasBench201(4, 1, num_labels=CLASSES),
    "DARTS": lambda: DARTS(4, 3, "cifar"),
    "LayerChoices": ImageLayers,
}
spaces = pytest.mark.parametrize("name", SPACES)


def supernet(name: str, *, fused: bool, dtype: torch.dtype = torch.float64) -> ModelSpace:
    torch.manual_seed(0)
    model = BaLeNAS(fused=fused).mutate_model(SPACES[name]()).to(dtype)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.5)
        elif parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    return model


def one_pass(
    model: ModelSpace, dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return logits, gradients of all parameters and buffers after two training passes."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, *IMAGE, generator=generator).to(dtype).contiguous(memory_format=memory_format)
    model.train()
    model(x)
    logits = model(x)
    F.cross_entropy(logits, torch.arange(6) % CLASSES).backward()
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    return logits.detach(), grads, dict(model.named_buffers())


def assert_close(given: Tensor, expected: Tensor, tolerance: float, scale: float | None = None) -> None:
    scale = float(expected.detach().abs().max()) if scale is None else scale
    torch.testing.assert_close(given, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance", "layout"),
    [
        *((name, torch.float64, 1e-10, torch.contiguous_format) for name in SPACES),
        *(
            ("NasBench201", dtype, t, torch.channels_last)
            for dtype, t in ((torch.float64, 1e-10), (torch.float32, 1e-5))
        ),
    ],
    ids=str,
)
def test_the_fused_supernet_computes_the_same(name: str, dtype: torch.dtype, tolerance: float, layout: Any) -> None:
    """In training, then in evaluation mode, also with the other's checkpoint; in either memory format."""
    plain, fused = (supernet(name, fused=value, dtype=dtype) for value in (False, True))
    expected, given = one_pass(plain, dtype), one_pass(fused, dtype, layout)
    assert_close(given[0], expected[0], tolerance)
    largest = max(float(g.abs().max()) for g in expected[1].values())
    for parameter, gradient in expected[1].items():
        assert_close(given[1][parameter], gradient, tolerance, scale=largest)
    assert given[2].keys() == expected[2].keys()
    for buffer, value in expected[2].items():
        if name == "DARTS" and buffer.endswith("num_batches_tracked"):
            assert (int(value), int(given[2][buffer])) in {(0, 2), (2, 2)}  # NNI's mixed batch-norm does not count
            continue
        assert_close(given[2][buffer], value, tolerance)
    x = torch.randn(4, *IMAGE, dtype=dtype)
    outputs = plain.eval()(x)
    assert_close(fused.eval()(x), outputs, tolerance)
    assert list(plain.state_dict()) == list(fused.state_dict())
    with torch.no_grad():
        for value in (*fused.parameters(), *fused.buffers()):
            value.zero_()
    fused.load_state_dict(plain.state_dict())
    assert_close(fused(x), outputs, tolerance)


def test_a_frozen_cell_is_a_plain_one_with_the_weights_of_the_supernet() -> None:
    model = supernet("NasBench201", fused=True)
    names = ("none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3", "conv_3x3")
    choice = dict(zip(sorted(model.simplify()), names, strict=True))
    model(torch.randn(2, *IMAGE, dtype=torch.float64))  # the cells have planned for the supernet
    frozen = model.freeze(choice)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, DifferentiableMixedLayer):
                module._arch_alpha.fill_(-1e4)[module.names.index(choice[module.label])] = 1e4
    x = torch.randn(4, *IMAGE, dtype=torch.float64)
    assert_close(frozen.eval()(x), model.eval()(x), 1e-10)
    assert not any(isinstance(module, FusedNasBench201Cell) for module in frozen.modules())


def test_a_copied_supernet_is_independent() -> None:
    model = supernet("NasBench201", fused=True)
    x = torch.randn(4, *IMAGE, dtype=torch.float64)
    before = model.eval()(x)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    assert torch.equal(model(x), before)
    assert not torch.allclose(twin(x), before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_supernet_that_is_copied_in_a_step_mixes_with_its_own_mean(copied: Callable[[Any], Any]) -> None:
    model = supernet("NasBench201", fused=True).eval()
    x = torch.randn(2, *IMAGE, dtype=torch.float64)
    expected, parameters = model(x), architecture_parameters(model)
    draw = Draw({}, {label: torch.eye(len(p)).double()[0] for label, p in parameters.items()})
    with mixing_of(model).using(draw, parameters):
        twin = copied(model)
        assert not torch.allclose(model(x), expected)
        assert torch.equal(twin(x), expected)


def test_the_report_names_every_mixed_module() -> None:
    def report(name: str, fused: bool) -> dict[str, str]:
        return fusion_report(supernet(name, fused=fused))

    assert report("NasBench201", True) == {"cells.0": "fused", "cells.2": "fused", "cells.4": "fused"}
    assert set(report("NasBench201", False).values()) == {"as NNI does: not fused"}
    assert report("LayerChoices", True) == {
        "first": "fused, but 1 of 5 candidates called as they are (own: Own is not a plain layer)",
        "second": "fused",
    }
    halving = "fused, but 8 of 98 candidates called as they are (skip_connect: FactorizedReduce is not a plain layer)"
    assert report("DARTS", True) == {
        "stages.0.blocks.0": "fused",
        "stages.1.blocks.0": halving,
        "stages.2.blocks.0": halving,
    }


def test_the_report_says_why_a_pass_was_left_to_nni() -> None:
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)

    def report(model: ModelSpace) -> str:
        return fusion_report(model)["first"]

    model = supernet("LayerChoices", fused=True)
    plan = report(model)
    model.first(x)
    assert report(model) == plan
    with pytest.raises(RuntimeError):
        model.first(torch.complex(x, x))
    assert report(model) == f"{plan}; as NNI does where the input is complex128"
    model = supernet("LayerChoices", fused=True)
    torch.func.vmap(lambda row: model.eval().first(row[None]))(x)
    assert report(model) == "as NNI does: a transform of torch.func is at work"
    hook = model.first["a"][1].register_forward_hook(lambda *_: None)
    assert report(model) == "as NNI does: a hook listens to Conv2d"
    hook.remove()
    model.first(x)
    assert report(model) == f"{plan}; as NNI does where a transform of torch.func is at work"

    model = supernet("LayerChoices", fused=True)
    model.first["a"] = nn.Conv2d(4, 1, 1).double()
    model.first(x)
    assert report(model) == (
        "as NNI does: b (Sequential) returns the shape (2, 4, 8, 8), another candidate (2, 1, 8, 8)"
    )


def test_what_a_candidate_does_only_after_it_was_tried_is_an_error() -> None:
    model = supernet("LayerChoices", fused=True).eval()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    model.first(x)
    gate = model.first["own"].gate
    for late, says in ((lambda y: y.mul_(gate), "changes its input in place"), (lambda y: y[:1], "returns the shape")):
        Own.forward, original = lambda self, y, late=late: late(y), Own.forward
        try:
            with torch.no_grad(), pytest.raises(SpaceError, match=rf"own \(Own\) {says}.*fused=False"):
                model.first(x.clone())
        finally:
            Own.forward = original


def test_the_option_chooses_the_classes() -> None:
    def kinds(name: str, fused: bool) -> set[type]:
        mixed = (DifferentiableMixedLayer, DifferentiableMixedCell, FusedNasBench201Cell)
        return {type(m) for m in supernet(name, fused=fused).modules() if isinstance(m, mixed)}

    assert kinds("NasBench201", True) == {FusedNasBench201Cell, FusedMixedLayer}
    assert kinds("NasBench201", False) == {DrawnLayer}
    assert kinds("DARTS", True) == {FusedMixedCell}
    assert kinds("DARTS", False) == {DrawnCell}


@spaces
def test_a_hook_set_later_is_called_and_changes_nothing(name: str) -> None:
    model = supernet(name, fused=True).eval()
    x = torch.randn(4, *IMAGE, dtype=torch.float64)
    expected = model(x)
    calls: list[str] = []
    watched = next(m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and n.count(".") > 1)
    watched.register_forward_hook(lambda *_: calls.append("called"))
    assert_close(model(x), expected, 1e-10)
    assert calls


def test_a_users_own_mixed_layers_in_the_cell_are_called() -> None:
    class Half(FusedMixedLayer):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return 0.5 * super().forward(*args, **kwargs)

    class OwnEdge(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.layer(x)

    model = supernet("NasBench201", fused=True).eval()
    x = torch.randn(4, *IMAGE, dtype=torch.float64)
    before = model(x)
    for module in list(model.modules()):
        if isinstance(module, FusedNasBench201Cell):
            module._plan = None
            module.layers[0][0] = OwnEdge(module.layers[0][0])
    assert not torch.allclose(model(x), before)


def search_images(folder: Any, space: ModelSpace, **options: Any) -> BaLeNAS:
    data = loaders(train=24, val=24, shape=IMAGE)
    torch.manual_seed(0)
    evaluator = classification(folder, precision="64-true", **data)
    return search(space, evaluator, arc_learning_rate=0.05, **options)


@pytest.mark.parametrize("options", [{}, {"order": "second"}, {"num_mc_samples": 2}], ids=str)
def test_a_search_finds_the_same_posterior_however_it_computes(tmp_path, options: dict[str, Any]) -> None:
    posteriors = []
    for fused, channels_last in ((False, False), (True, True), *([] if options else [(True, False)])):
        torch.manual_seed(5)
        strategy = search_images(
            tmp_path, NasBench201(4, 1, num_labels=CLASSES), fused=fused, channels_last=channels_last, **options
        )
        posteriors.append(strategy.posterior)
    for other in posteriors[1:]:
        for label, mean in posteriors[0].mean.items():
            torch.testing.assert_close(other.mean[label], mean, rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(other.precision[label], posteriors[0].precision[label], rtol=1e-7, atol=1e-7)


def test_weights_are_channels_last_during_the_search_only(tmp_path) -> None:
    seen: list[bool] = []

    class Looking(ImageLayers):
        def forward(self, x: Tensor) -> Tensor:
            if self.training and torch.is_grad_enabled():
                seen.append(self.stem(x).is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    strategy = search_images(tmp_path, Looking())
    assert len(seen) > 2
    assert all(seen)
    assert all(p.is_contiguous() for p in strategy.supernet.parameters())


def test_a_network_that_needs_the_default_format_is_searched_in_it(tmp_path, caplog) -> None:
    def view(x: Tensor) -> Tensor:
        return x.view(len(x), -1)

    with caplog.at_level(logging.WARNING):
        torch.manual_seed(5)
        given = search_images(tmp_path, ImageLayers(view)).posterior
    assert "channels_last is off" in caplog.text
    assert "view" in caplog.text
    torch.manual_seed(5)
    expected = search_images(tmp_path, ImageLayers(view), channels_last=False).posterior
    for label, mean in expected.mean.items():
        assert torch.equal(given.mean[label], mean)  # the attempt left no trace


def test_a_space_without_convolutions_is_left_alone(tmp_path, caplog) -> None:
    search(Layers(), classification(tmp_path))
    assert "channels_last" not in caplog.text


def alphas_of(folder: Any, name: str, **options: Any) -> tuple[dict[str, Tensor], OneShotStrategy]:
    """Return what a strategy learns about NAS-Bench-201, and the strategy."""
    torch.manual_seed(5)
    strategy = build_strategy({"name": name, "arc_learning_rate": 0.05, **options})
    evaluator = classification(folder, precision="64-true", **loaders(train=24, val=24, shape=IMAGE))
    space = NasBench201(4, 1, num_labels=CLASSES)
    strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    strategy.run()
    return {k: v.detach() for k, v in architecture_parameters(strategy.supernet).items()}, strategy


PASSES = ("DARTS", "GDAS", "DSNAS", "SDARTS_ADV", "SNAS")
"""A preset for each way that passes differ: all mixed, one drawn, with the others' gradients or without, ascent first,
both levels at once."""


@pytest.mark.parametrize(
    ("slow", "fast"),
    [
        ({"name": "nni.DARTS"}, {"name": "DARTS", "validate_every_n_epochs": 0}),  # NNI never validates
        *(({"name": name, "fused": False, "channels_last": False}, {"name": name}) for name in PASSES),
    ],
    ids=lambda options: f"{options['name']}-{len(options)}",
)
def test_strategies_find_the_same_however_they_are_computed(slow, fast, tmp_path) -> None:
    expected, plain = alphas_of(tmp_path, **slow)
    given, fused = alphas_of(tmp_path, **fast)
    assert set(fusion_report(plain.supernet).values()) == {"as NNI does: not fused"}
    together = fused.mixed_op is None or fused.mixed_op.adds_up
    how = "fused" if together else f"as NNI does: {fused.mixed_op.name} mixes them"
    assert set(fusion_report(fused.supernet).values()) == {how}
    assert all(p.is_contiguous() for p in fused.supernet.parameters())
    for label, alpha in expected.items():
        torch.testing.assert_close(given[label], alpha, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("option", ["fused", "channels_last"])
def test_the_options_are_flags(option: str) -> None:
    for build in (BaLeNAS, lambda **options: build_strategy({"name": "DARTS", **options})):
        with pytest.raises(OptionError, match=f"{option} must be true or false, got 'yes'"):
            build(**{option: "yes"})
    with pytest.raises(OptionError, match=f"has no option '{option}'"):
        build_strategy({"name": "Proxyless", option: True})

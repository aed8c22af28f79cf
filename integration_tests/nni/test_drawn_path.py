"""A drawn candidate is computed alone: values and gradients, statistics, and whole searches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.hub.pytorch import DARTS, NasBench201
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell, DifferentiableMixedLayer
from nni.nas.space import RawFormatModelSpace
from torch import Tensor, nn

from balenas_plugin import GDAS, BaLeNAS
from balenas_plugin.adapters.nni.supernets.parameters import (
    architecture_parameters,
    choice_names,
    parameterised_candidates,
)
from balenas_plugin.distributions import Draw
from balenas_plugin.search.mixing import mixing_of

from . import spaces
from .searches import Spy, classification, is_training, loaders
from .test_fused import ImageLayers

IMAGE = (3, 8, 8)

SPACES: dict[str, tuple[Callable[[], ModelSpace], tuple[int, ...]]] = {
    "NasBench201": (lambda: NasBench201(4, 1, num_labels=spaces.CLASSES), IMAGE),
    "DARTS": (lambda: DARTS(4, 3, "cifar"), IMAGE),
    "LayerChoices": (ImageLayers, IMAGE),
    "Nested": (spaces.NestedLayers, spaces.VECTOR),
    "Inputs": (spaces.Inputs, spaces.VECTOR),
    "Depth": (spaces.Depth, spaces.VECTOR),
    "DepthExpression": (spaces.DepthExpression, spaces.VECTOR),
}


@cache
def made(name: str, fused: bool) -> tuple[ModelSpace, dict[str, Any]]:
    """Return a supernet, and its state at the start."""
    model = BaLeNAS(fused=fused).mutate_model(SPACES[name][0]()).double()
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.dim() == 1 else 0, 0.3)
    return model, copy.deepcopy(model.state_dict())


def supernet(name: str, *, fused: bool) -> ModelSpace:
    """Return a supernet at its start."""
    model, state = made(name, fused)
    model.load_state_dict(state)
    model.zero_grad()
    return model.train()


def one_pass(
    name: str, draw: Draw, *, fused: bool, kept: Mapping[str, list[int]] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Return what a training pass with a draw computes, and leaves in the supernet."""
    model = supernet(name, fused=fused)
    parameters = architecture_parameters(model)
    for weights in draw.weights.values():
        weights.grad = None
    torch.manual_seed(1)
    x = torch.randn(4, *SPACES[name][1], dtype=torch.float64)
    with mixing_of(model).using(draw, parameters, kept):
        logits = model(x)
        F.cross_entropy(logits, torch.arange(4) % spaces.CLASSES).backward()
    return {
        "logits": {"": logits.detach()},
        "statistics": {n: b.clone() for n, b in model.named_buffers() if "num_batches" not in n},
        "gradients": {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        "in the weights": {k: torch.zeros_like(w) if w.grad is None else w.grad for k, w in draw.weights.items()},
    }


def hard(name: str, shift: int, *, others: Any = "none", alone: bool = True) -> Draw:
    """Return a draw of one candidate a label: others for each; or of one for all, counted from the end."""
    sizes = {label: len(a) for label, a in architecture_parameters(made(name, True)[0]).items()}
    chosen = {label: n + shift if shift < 0 else (k + shift) % n for k, (label, n) in enumerate(sizes.items())}
    weights = {label: F.one_hot(torch.tensor(k), sizes[label]).double() for label, k in chosen.items()}
    if others == "evaluated":
        others = {label: [k for k in range(n) if k != chosen[label]] for label, n in sizes.items()}
    return Draw({}, weights, chosen=chosen if alone else None, others=others)


def assert_close(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(given[name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("shift", [0, 2, -1])
def test_the_drawn_candidate_alone_is_the_one_hot_sum(name: str, shift: int) -> None:
    everything = one_pass(name, hard(name, shift, alone=False), fused=False)
    drawn = hard(name, shift)
    for fused in (False, True):
        found = one_pass(name, drawn, fused=fused)
        assert_close(found["logits"], everything["logits"])
        for label, gradient in found["in the weights"].items():
            k = drawn.chosen[label]
            torch.testing.assert_close(gradient[k], everything["in the weights"][label][k], rtol=1e-9, atol=1e-11)
            assert gradient.count_nonzero() <= 1  # those not drawn have none
        for parameter, gradient in everything["gradients"].items():
            assert_close(
                {parameter: found["gradients"].get(parameter, torch.zeros_like(gradient))}, {parameter: gradient}
            )


@pytest.mark.parametrize("name", SPACES)
def test_what_is_kept_alone_is_the_sum_with_zeros(name: str) -> None:
    """Of some labels a random part of the candidates is kept, of some one, of others all."""
    random = torch.Generator().manual_seed(5)
    kept, weights = {}, {}
    for label, alpha in architecture_parameters(made(name, True)[0]).items():
        w = torch.rand(len(alpha), generator=random, dtype=torch.float64)
        number = int(torch.randint(1, len(alpha) + 1, (), generator=random))
        indices = sorted(torch.randperm(len(alpha), generator=random)[:number].tolist())
        kept |= {} if number == len(alpha) else {label: indices}
        weights[label] = w * torch.zeros_like(w).index_fill(0, torch.tensor(indices), 1)
    draw = Draw({}, weights)
    everything = one_pass(name, draw, fused=False)
    for fused in (False, True):
        found = one_pass(name, draw, fused=fused, kept=kept)
        assert_close(found["logits"], everything["logits"])
        for label, gradient in everything["in the weights"].items():
            indices = kept.get(label, list(range(len(gradient))))
            torch.testing.assert_close(found["in the weights"][label][indices], gradient[indices], rtol=1e-9, atol=1e-9)
        for parameter, gradient in found["gradients"].items():
            assert_close({parameter: gradient}, {parameter: everything["gradients"][parameter]})
        left = everything["gradients"].keys() - found["gradients"].keys()
        assert all(everything["gradients"][parameter].count_nonzero() == 0 for parameter in left)
        assert left or name not in ("NasBench201", "DARTS", "LayerChoices")


@pytest.mark.parametrize("name", SPACES)
def test_candidates_evaluated_in_the_backward_pass_have_the_gradients_of_the_sum_over_all(name: str) -> None:
    """And move statistics as there; the weights of their layers have no gradient."""
    for shift in (1, -1):
        everything = one_pass(name, hard(name, shift, alone=False), fused=False)
        trained = one_pass(name, hard(name, shift), fused=False)["gradients"]
        kinds = ["logits", "in the weights", *(["statistics"] if shift == 1 else [])]  # none behind zeros alone
        for fused in (False, True):
            found = one_pass(name, hard(name, shift, others="evaluated"), fused=fused)
            for kind in kinds:
                assert_close(found[kind], everything[kind])
            assert found["gradients"].keys() == trained.keys()


@pytest.mark.parametrize(
    ("name", "reference"), [("NasBench201", "scalar"), ("DARTS", "none"), ("LayerChoices", "scalar")]
)
def test_fused_or_not_a_draw_is_the_same(name: str, reference: str) -> None:
    zeros = {"NasBench201": -5, "DARTS": -1, "LayerChoices": 0}[name]
    for shift, others in ((1, None), (4, "scalar"), (4, "none"), (zeros, "scalar"), (zeros, None)):
        draw = hard(name, shift, others=others)
        plain, fused = (one_pass(name, draw, fused=value) for value in (False, True))
        for kind in ("logits", "statistics", "in the weights"):
            assert_close(fused[kind], plain[kind])
        numbers = any(w.count_nonzero() > 1 for w in fused["in the weights"].values())
        assert numbers == ((others or reference) == "scalar")


def test_a_number_in_the_place_of_a_candidate_has_the_summed_gradient() -> None:
    """As in GDAS's search of NAS-Bench-201."""
    model, draw, sums = supernet("LayerChoices", fused=True), hard("LayerChoices", 0, others="scalar"), []
    x = torch.randn(4, *IMAGE, dtype=torch.float64)
    with mixing_of(model).using(draw, architecture_parameters(model)):
        y = model.second(model.first(model.stem(x)))
        y.register_hook(lambda gradient: sums.append(gradient.sum()))
        model.head(y.flatten(1)).square().sum().backward()
    others = [k for k in range(3) if k != draw.chosen["second"]]
    torch.testing.assert_close(draw.weights["second"].grad[others], sums[0].expand(2))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["NasBench201", "DARTS", "LayerChoices"])
def test_only_the_drawn_candidates_run(name: str, fused: bool) -> None:
    model, draw = supernet(name, fused=fused), hard(name, 1)
    before = {n: b.clone() for n, b in model.named_buffers() if n.endswith("running_mean")}
    with mixing_of(model).using(draw, architecture_parameters(model)):
        model(torch.randn(4, *IMAGE, dtype=torch.float64)).sum().backward()
    moved = {id(b) for n, b in model.named_buffers() if n in before and not torch.equal(b, before[n])}
    for operation, drawn in candidates(model, draw):
        assert all((p.grad is not None) == drawn for p in operation.parameters())
        assert all((id(b) in moved) == drawn for n, b in operation.named_buffers() if n.endswith("running_mean"))


def candidates(model: nn.Module, draw: Draw) -> Iterator[tuple[nn.Module, bool]]:
    """Yield every candidate, and whether it is drawn."""
    for module in model.modules():
        if isinstance(module, DifferentiableMixedLayer):
            for k, name in enumerate(module.names):
                yield module[name], draw.chosen[module.label] == k
        elif isinstance(module, DifferentiableMixedCell):
            for target, edges in enumerate(module.ops, start=module.num_predecessors):
                for source, operations in enumerate(edges):
                    for k, operation in enumerate(operations.values()):
                        yield operation, draw.chosen[f"{module.label}/{target}_{source}"] == k


@pytest.mark.parametrize("fused", [True, False])
def test_a_search_draws_for_each_step_and_trains_what_is_drawn(fused: bool, tmp_path: Any) -> None:
    torch.manual_seed(0)
    strategy = GDAS(fused=fused, validate_every_n_epochs=0, channels_last=False)
    evaluator = classification(tmp_path, max_epochs=1, **loaders(train=24, val=24, shape=IMAGE))
    strategy.initialize(
        RawFormatModelSpace(NasBench201(4, 1, num_labels=spaces.CLASSES), evaluator), SequentialExecutionEngine()
    )
    module = strategy.oneshot_module
    steps: list[tuple[bool, dict[str, int]]] = []

    def look(batch: Any) -> None:
        chosen = {label: module.mixing.chosen(alpha) for label, alpha in module.named_arch_parameters().items()}
        steps.append((is_training(batch), chosen))

    Spy(strategy, look)
    before = {label: alpha.detach().clone() for label, alpha in architecture_parameters(strategy.supernet).items()}
    strategy.run()
    assert [training for training, _ in steps] == [True, False] * 3
    assert len({tuple(chosen.values()) for _, chosen in steps}) > 1
    for label, alpha in architecture_parameters(strategy.supernet).items():
        assert alpha.grad is not None
        assert not torch.equal(alpha, before[label])


def test_candidates_say_themselves_which_of_them_have_weights() -> None:
    flags = parameterised_candidates(made("DARTS", True)[0])
    names = choice_names(made("DARTS", True)[0])
    assert flags.keys() == names.keys()
    for label, named in names.items():  # also where a skip connection halves the image, and has weights
        assert {name for name, has in zip(named, flags[label], strict=True) if has} == {
            *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
        }
    assert set(parameterised_candidates(made("NasBench201", True)[0]).values()) == {(False, False, True, True, False)}
    assert parameterised_candidates(made("Inputs", True)[0]) == {}

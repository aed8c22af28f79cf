"""Batch-norm with a second derivative of its own, against torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.bayes.second_derivatives.batch_norm import FastSecondDerivative
from balenas_plugin.bayes.second_derivatives.hessian import architecture_hessian, twice_differentiable_gradient


def double(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.double, generator=generator).requires_grad_(True)


def fast(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    with FastSecondDerivative():
        return F.batch_norm(x, None, None, gamma, beta, training=True)


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 5), (4, 3, 5, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_derivatives_are_those_of_finite_differences(shape: tuple[int, ...], affine: bool) -> None:
    inputs = (double(*shape), double(3, seed=1), double(3, seed=2)) if affine else (double(*shape),)
    function: Callable[..., Tensor] = fast if affine else lambda x: fast(x, None, None)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_one_of_gamma_and_beta_may_be_missing_or_frozen() -> None:
    x, gamma, beta = double(4, 3, 2, 2), double(3, seed=1), double(3, seed=2)
    assert torch.autograd.gradgradcheck(lambda x, gamma: fast(x, gamma, None), (x, gamma))
    assert torch.autograd.gradgradcheck(lambda x, beta: fast(x, None, beta), (x, beta))
    assert torch.autograd.gradgradcheck(lambda x: fast(x, gamma.detach(), beta.detach()), (x,))


def test_a_channels_last_network_has_the_values_statistics_and_hessian_of_torch() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten()
    )
    network.double().to(memory_format=torch.channels_last).requires_grad_(False)
    x = torch.randn(8, 3, 6, 6, dtype=torch.double).to(memory_format=torch.channels_last)
    alpha = double(3, seed=3)

    def loss() -> Tensor:
        return network(x * alpha.softmax(0).view(1, 3, 1, 1)).square().sin().mean()

    before = {name: value.clone() for name, value in network.state_dict().items()}
    (first,) = torch.autograd.grad(loss(), [alpha], create_graph=True)
    expected = torch.stack([torch.autograd.grad(entry, [alpha], retain_graph=True)[0] for entry in first])
    statistics = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(before)
    found = architecture_hessian(loss, [alpha])

    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(network.state_dict(), statistics)


def test_it_is_in_use_where_a_second_derivative_is_wanted_and_nowhere_else() -> None:
    x, seen = double(4, 3), []

    def loss() -> Tensor:
        y = F.batch_norm(x, None, None, training=True)
        seen.append(type(y.grad_fn).__name__)
        return y.pow(3).sum()

    twice_differentiable_gradient(loss, [x])
    loss()
    assert seen == ["_BatchNormBackward", "NativeBatchNormBackward0"]


def test_a_single_value_a_channel_is_refused_as_torch_does() -> None:
    with FastSecondDerivative(), pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        F.batch_norm(double(1, 3), None, None, training=True)


@pytest.mark.parametrize(
    ("dtype", "training"), [(torch.bfloat16, True), (torch.float64, False)], ids=["16 bits", "running statistics"]
)
def test_what_it_does_not_compute_is_left_to_torch(dtype: torch.dtype, training: bool) -> None:
    x = torch.randn(4, 3).to(dtype).requires_grad_(True)
    mean, variance = torch.full([3], 0.5).to(dtype), torch.full([3], 2.0).to(dtype)
    with FastSecondDerivative():
        y = F.batch_norm(x, mean.clone(), variance.clone(), training=training)
    torch.testing.assert_close(y, F.batch_norm(x, mean.clone(), variance.clone(), training=training))
    assert "NativeBatchNorm" in type(y.grad_fn).__name__

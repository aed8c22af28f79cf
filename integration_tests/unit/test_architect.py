"""Architecture gradients and the Hessian: closed forms; test_parity.py has the reference runs."""

from __future__ import annotations

import pytest
import torch

from balenas_plugin.bayes.architect import (
    VirtualStep,
    finite_difference_hvp,
    second_order_gradient,
)
from balenas_plugin.bayes.second_derivatives.hessian import architecture_hessian


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def test_hessian_of_a_quadratic_is_its_matrix():
    A = tensor([[2.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 1.0]])
    x, unused = torch.ones(3, dtype=torch.float64, requires_grad=True), torch.ones(2, requires_grad=True)
    H = architecture_hessian(lambda: 0.5 * x @ A @ x, [x, unused.double()])
    torch.testing.assert_close(H[:3, :3], A)
    assert torch.count_nonzero(H[3:]) == 0


def test_zero_direction_gives_zero_and_not_nan():
    w, a = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    (product,) = finite_difference_hvp(lambda: (w * a).sum(), [a], [w], [torch.zeros(2)])
    assert torch.equal(product, torch.zeros(2))


def test_weights_are_restored_when_a_loss_raises():
    w, a = torch.tensor([1.0, 2.0], requires_grad=True), torch.ones(2, requires_grad=True)
    before = w.detach().clone()

    def failing():
        assert not torch.equal(w, before)  # raised while the weights are unrolled
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        second_order_gradient(
            train_loss=lambda: (w**2 * a).sum(), val_loss=failing, alphas=[a], weights=[w], step=VirtualStep(lr=0.1)
        )
    assert torch.equal(w, before)

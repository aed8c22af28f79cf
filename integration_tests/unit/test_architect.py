"""Architecture gradients and the Hessian against reference runs of a toy bilevel model."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from balenas_plugin.bayes.architect import (
    VirtualStep,
    finite_difference_hvp,
    gradients,
    second_order_gradient,
    unrolled_weights,
)
from balenas_plugin.bayes.hessian import architecture_hessian, largest_eigenvalue
from balenas_plugin.bayes.vadam import VAdam

OPERATIONS = (lambda x: 0 * x, lambda x: x, torch.tanh, lambda x: x * torch.sigmoid(x))
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


class Bilevel:
    """The toy model of the reference, with its weight optimizer: SGD with momentum and clipping."""

    def __init__(self, reference):
        self.reference = reference
        self.weights = [torch.nn.Parameter(tensor(reference["init"][k])) for k in ("W1", "W2", "W3", "b")]
        self.alphas = [torch.nn.Parameter(tensor(a)) for a in reference["alpha"]]
        hyper = reference["hyper"]
        self.sgd = torch.optim.SGD(
            self.weights, lr=hyper["w_lr"], momentum=hyper["w_momentum"], weight_decay=hyper["w_wd"]
        )

    def loss(self, batch, kind):
        x, y = tensor(batch["x" + kind]), torch.tensor(batch["y" + kind])
        W1, W2, W3, b = self.weights
        a0, a1 = self.alphas

        def mixed(p, z):
            return sum(w * f(z) for w, f in zip(p.softmax(-1), OPERATIONS, strict=True))

        z = mixed(a0[0], x @ W1) @ W2 + mixed(a0[1], x @ W3)
        views = (z, z.tanh(), 0.5 * z**2)
        logits = sum(w * v for w, v in zip(a1[0].softmax(-1), views, strict=True)) + b
        return F.cross_entropy(logits, y)

    def virtual_step(self):
        hyper = self.reference["hyper"]
        buffers = [self.sgd.state[w].get("momentum_buffer") for w in self.weights]
        return VirtualStep(
            lr=hyper["w_lr"], momentum=hyper["w_momentum"], weight_decay=hyper["w_wd"], momentum_buffers=buffers
        )

    def weight_step(self, batch):
        self.sgd.zero_grad()
        self.loss(batch, "t").backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.reference["hyper"]["grad_clip"])
        self.sgd.step()

    def flat(self, tensors):
        return torch.cat([t.detach().flatten() for t in tensors])


@pytest.fixture(scope="module")
def reference(parity_dir):
    return json.loads((parity_dir / "architect.json").read_text())


def vadam_of(toy, eps):
    """VAdam of the reference run, fed the recorded noise of each step."""
    pieces = iter(
        piece for (row, *_) in eps for piece in (tensor(row[:8]).reshape(2, 4), tensor(row[8:]).reshape(1, 3))
    )
    return VAdam(toy.alphas, lr=3e-4, betas=(0.5, 0.999), dataset_size=25_000, noise=lambda _: next(pieces))


@pytest.mark.parametrize("order", ["first", "second"])
def test_darts_gradients_equal_the_reference(reference, order):
    toy = Bilevel(reference)
    hyper = reference["hyper"]
    adam = torch.optim.Adam(
        toy.alphas, lr=hyper["arch_lr"], betas=tuple(hyper["arch_betas"]), weight_decay=hyper["arch_wd_adam"]
    )
    for expected, batch in zip(reference["runs"][f"darts_{order}"], reference["batches"], strict=True):
        if order == "first":
            grads = gradients(toy.loss(batch, "v"), toy.alphas)
        else:
            train_gradient = gradients(toy.loss(batch, "t"), toy.weights)
            unrolled = unrolled_weights(toy.weights, train_gradient, toy.virtual_step())
            torch.testing.assert_close(toy.flat(unrolled), tensor(expected["unrolled_theta"]), **CLOSE)
            before = [w.detach().clone() for w in toy.weights]
            grads, _ = second_order_gradient(
                train_loss=lambda b=batch: toy.loss(b, "t"),
                val_loss=lambda b=batch: toy.loss(b, "v"),
                alphas=toy.alphas,
                weights=toy.weights,
                step=toy.virtual_step(),
            )
            assert all(torch.equal(w, b) for w, b in zip(toy.weights, before, strict=True))
        torch.testing.assert_close(toy.flat(grads), tensor(expected["alpha_grad_final"]), **CLOSE)
        for a, g in zip(toy.alphas, grads, strict=True):
            a.grad = g
        adam.step()
        torch.testing.assert_close(toy.flat(toy.alphas), tensor(expected["alpha_after"]), **CLOSE)
        toy.weight_step(batch)
        torch.testing.assert_close(toy.flat(toy.weights), tensor(expected["theta_after_weight_step"]), **CLOSE)


def test_vadam_first_order_equals_the_reference(reference):
    toy = Bilevel(reference)
    optimizer = vadam_of(toy, reference["eps"])
    for expected, batch in zip(reference["runs"]["vadam_first_M1"], reference["batches"], strict=True):

        def closure(b=batch):
            loss = toy.loss(b, "v")
            loss.backward()
            return loss

        optimizer.step(closure)
        torch.testing.assert_close(
            toy.flat([a.grad for a in toy.alphas]), tensor(expected["alpha_grad_final"]), **CLOSE
        )
        torch.testing.assert_close(toy.flat(toy.alphas), tensor(expected["alpha_after"]), **CLOSE)
        torch.testing.assert_close(
            toy.flat([optimizer.state[a]["s"] for a in toy.alphas]), tensor(expected["s"]), **CLOSE
        )
        toy.weight_step(batch)
        torch.testing.assert_close(toy.flat(toy.weights), tensor(expected["theta_after_weight_step"]), **CLOSE)


def test_second_order_chain_equals_the_reference_that_differentiates_at_the_mean(reference):
    """The reference takes the direct gradient at the mean alpha and the finite difference at the draw.

    The paper wants both at the draw (and that is what `second_order_gradient` does); put together the reference's way,
    the same pieces must give the reference's numbers.
    """
    toy = Bilevel(reference)
    optimizer = vadam_of(toy, reference["eps"])
    for expected, batch in zip(
        reference["runs"]["vadam_second_M1_gradient_at_mean"], reference["batches"], strict=True
    ):
        mean = [a.detach().clone() for a in toy.alphas]

        def closure(b=batch, mean=mean):
            drawn = [a.detach().clone() for a in toy.alphas]
            put(toy.alphas, mean)
            step = toy.virtual_step()
            start = [w.detach().clone() for w in toy.weights]
            put(toy.weights, unrolled_weights(toy.weights, gradients(toy.loss(b, "t"), toy.weights), step))
            both = gradients(toy.loss(b, "v"), [*toy.alphas, *toy.weights])
            put(toy.weights, start)
            put(toy.alphas, drawn)
            implicit = finite_difference_hvp(lambda: toy.loss(b, "t"), toy.alphas, toy.weights, both[2:])
            for a, direct, i in zip(toy.alphas, both[:2], implicit, strict=True):
                a.grad = direct - step.lr * i

        optimizer.step(closure)
        torch.testing.assert_close(
            toy.flat([a.grad for a in toy.alphas]), tensor(expected["alpha_grad_final"]), **CLOSE
        )
        torch.testing.assert_close(toy.flat(toy.alphas), tensor(expected["alpha_after"]), **CLOSE)
        toy.weight_step(batch)


def put(tensors, values):
    with torch.no_grad():
        for t, value in zip(tensors, values, strict=True):
            t.copy_(value)


def test_hessian_and_its_largest_eigenvalue_equal_the_reference(reference):
    toy = Bilevel(reference)
    expected = reference["runs"]["hessian"]
    H = architecture_hessian(
        lambda: toy.loss(reference["batches"][0], "v"), toy.alphas, damping=reference["hyper"]["arch_wd_adam"]
    )
    torch.testing.assert_close(H, tensor(expected["H"]), **CLOSE)
    torch.testing.assert_close(torch.linalg.eigvalsh(H), tensor(sorted(expected["eigvals_sorted"])), **CLOSE)
    assert largest_eigenvalue(H) == pytest.approx(expected["ev_dominant_as_tracked"], rel=1e-9)


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

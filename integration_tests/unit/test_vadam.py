"""VAdam against closed forms and its own contract; test_parity.py has the reference vectors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.bayes.vadam import VAdam
from balenas_plugin.errors import OptionError


def test_posterior_of_a_quadratic_converges_to_the_exact_one():
    """For loss 0.5 a x^2 - b x the fixed point of the mean is b / (a + delta/N); s tends to E[g^2]."""
    a, b, N = 2.0, 3.0, 50
    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = VAdam([x], lr=0.05, dataset_size=N, num_mc_samples=8, initial_precision=10.0, noise=SeededNoise(0))

    def closure():
        loss = (0.5 * a * x * x - b * x).sum()
        loss.backward()
        return loss

    tail = []
    for step in range(4000):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step / 100)
        optimizer.step(closure)
        if step >= 3000:
            tail.append(x.item())
    assert math.isclose(sum(tail) / len(tail), b / (a + 1 / N), abs_tol=0.02)


def make(update="vadam", dtype=torch.float64, seed=3, **options):
    torch.manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(3, dtype=dtype)), torch.nn.Parameter(torch.randn(2, 2, dtype=dtype))]
    settings_ = {"lr": 0.01, "dataset_size": 100, "initial_precision": 5.0, "num_mc_samples": 2, **options}
    optimizer = VAdam(params, update=update, noise=SeededNoise(seed), **settings_)

    def closure():
        loss = sum((p**2).sum() + p.sin().sum() for p in params)
        loss.backward()
        return loss

    return params, optimizer, closure


def test_gradients_do_not_add_up_across_samples():
    """The first author's public code accumulates them (a bug that shrinks sigma): M equal draws must equal one."""
    zero = torch.zeros_like
    results = []
    for M in (1, 4):
        params, optimizer, closure = make(num_mc_samples=M)
        optimizer.noise = zero
        optimizer.step(closure)  # this closure never clears gradients itself
        results.append([optimizer.state[p]["s"].clone() for p in params])
    torch.testing.assert_close(results[0], results[1], rtol=1e-14, atol=0)


@pytest.mark.parametrize("failing_call", [1, 2])
def test_mean_is_restored_when_the_closure_raises(failing_call):
    params, optimizer, closure = make()
    before = [p.detach().clone() for p in params]
    s_before = [optimizer.state[p]["s"].clone() for p in params]
    calls = 0

    def failing():
        nonlocal calls
        calls += 1
        if calls == failing_call:
            assert not torch.equal(params[0].detach(), before[0])  # it really was at a draw
            raise ZeroDivisionError
        return closure()

    with pytest.raises(ZeroDivisionError):
        optimizer.step(failing)
    assert all(torch.equal(p.detach(), b) for p, b in zip(params, before, strict=True))
    assert all(torch.equal(optimizer.state[p]["s"], s) for p, s in zip(params, s_before, strict=True))


def test_sampled_holds_a_draw_inside_and_the_mean_outside():
    params, optimizer, _ = make()
    before = [p.detach().clone() for p in params]
    with optimizer.sampled():
        assert all(not torch.equal(p.detach(), b) for p, b in zip(params, before, strict=True))
    assert all(torch.equal(p.detach(), b) for p, b in zip(params, before, strict=True))


def test_noise_is_called_once_per_parameter_and_sample_in_order():
    params, optimizer, closure = make(num_mc_samples=3)
    seen = []
    optimizer.noise = lambda p: (seen.append(p), torch.zeros_like(p))[1]
    optimizer.step(closure)
    assert [id(p) for p in seen] == [id(p) for _ in range(3) for p in params]


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("update", ["vadam", "newton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resumed_equals_uninterrupted_bit_for_bit(update, dtype, antithetic, tmp_path):
    params, optimizer, closure = make(update, dtype, antithetic=antithetic)
    for _ in range(5):
        optimizer.step(closure)
    torch.save({"params": params, "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    for _ in range(5):
        optimizer.step(closure)

    resumed, other, other_closure = make(update, dtype, seed=99, lr=0.5, dataset_size=7, num_mc_samples=1)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    with torch.no_grad():
        for p, value in zip(resumed, saved["params"], strict=True):
            p.copy_(value)
    other.load_state_dict(saved["optimizer"])
    assert other.num_mc_samples == 2
    assert other.dataset_size == 100
    assert other.antithetic is antithetic
    for _ in range(5):
        other.step(other_closure)
    for p, q in zip(params, resumed, strict=True):
        assert torch.equal(p, q)
        assert q.dtype == dtype
        assert torch.equal(optimizer.precision(p), other.precision(q))
        assert other.precision(q).dtype == dtype


def test_a_state_from_before_it_held_antithetic_leaves_the_option():
    _, optimizer, _ = make()
    state = optimizer.state_dict()
    del state["antithetic"]
    _, other, _ = make(antithetic=True)
    other.load_state_dict(state)
    assert other.antithetic


def test_parameter_without_gradient_is_left_alone():
    params, optimizer, _ = make()
    unused = params[1].detach().clone()

    def closure():
        loss = (params[0] ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(params[1].detach(), unused)
    assert optimizer.state[params[1]]["step"] == 0
    assert optimizer.state[params[0]]["step"] == 1


def test_options_differ_by_group():
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = VAdam([{"params": [a], "lr": 0.1, "initial_precision": 4.0}, {"params": [b]}], noise=torch.zeros_like)

    def closure():
        loss = (a**2).sum() + (b**2).sum()
        loss.backward()
        return loss

    assert torch.allclose(optimizer.precision(a), torch.tensor(4.0))
    assert torch.allclose(optimizer.precision(b), torch.tensor(1.0))
    optimizer.step(closure)
    assert abs(1 - a[0].item()) > 100 * abs(1 - b[0].item()) > 0


def test_dataset_size_can_be_set_until_the_first_step():
    params, optimizer, closure = make()
    optimizer.set_dataset_size(1000)
    torch.testing.assert_close(optimizer.precision(params[0]), torch.full_like(params[0], 5.0))
    assert optimizer.dataset_size == 1000
    optimizer.step(closure)
    with pytest.raises(OptionError, match="cannot change from 1000"):
        optimizer.set_dataset_size(10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_precision": 0.5}, "below prior_precision"),
        ({"lr": -1.0}, "lr must be a positive number"),
        ({"lr": float("nan")}, "lr must be a positive number"),
        ({"betas": (0.5, 1.0)}, "betas must be two numbers"),
        ({"dataset_size": 0}, "dataset_size must be a positive number"),
        ({"num_mc_samples": 0}, "num_mc_samples must be a whole number"),
        ({"num_mc_samples": 1.5}, "num_mc_samples must be a whole number"),
        ({"update": "newtons"}, "did you mean 'newton'"),
        ({"update": "newton", "lr": 1.5}, "lr .* must be at most 1 with update newton, got 1.5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        make(**options)


def test_newton_keeps_the_precision_positive_at_its_largest_rate():
    params, optimizer, closure = make("newton", lr=1.0)
    for _ in range(5):
        optimizer.step(closure)
    assert all((optimizer.precision(p) > 0).all() for p in params)


def test_step_needs_a_closure():
    _, optimizer, _ = make()
    with pytest.raises(OptionError, match="needs a closure"):
        optimizer.step()


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(1e-4, 1e4),
    lr=st.floats(1e-5, 0.5),
    N=st.integers(1, 10**6),
    extra=st.floats(0, 100),
    update=st.sampled_from(["vadam", "newton"]),
)
def test_sigma_stays_positive_and_finite(scale, lr, N, extra, update):
    x = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = VAdam(
        [x], lr=lr, dataset_size=N, initial_precision=1 + extra, num_mc_samples=2, update=update, noise=SeededNoise(1)
    )

    def closure():
        loss = scale * (x.tanh() ** 2).sum()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
        precision = optimizer.precision(x)
        assert torch.isfinite(precision).all()
        assert (precision >= 1.0).all()  # never below the prior's

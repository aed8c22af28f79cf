r"""The largest eigenvalue and the trace of a symmetric matrix that is known only by its products with vectors.

A Hessian of n architecture parameters costs n backward passes to write down; its product with one vector costs one.

Sources: Lanczos 1950 (tridiagonalisation, here with full reorthogonalisation); Hutchinson 1990 (trace).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from balenas_plugin.bayes.second_derivatives.hessian import joined, twice_differentiable_gradient
from balenas_plugin.restoring import restored

Multiply = Callable[[Tensor], Tensor]
"""v of shape (n,) -> H v of shape (n,)."""


def hessian_product(loss: Callable[[], Tensor], alphas: Sequence[Tensor]) -> Multiply:
    """Return v -> (d2 loss / d alpha2) v; the loss is evaluated once, and its graph is kept as long as the function.

    Args:
        loss: evaluates the scalar loss at the current alphas, twice differentiable.
        alphas: architecture parameters (logits), flattened and joined in the order given; n entries in all.

    Raises:
        NoSecondDerivativeError: an operation of the loss can be differentiated only once.
    """
    inputs = list(alphas)
    gradient = twice_differentiable_gradient(loss, inputs)

    def multiply(vector: Tensor) -> Tensor:
        projected = gradient @ vector  # d/d alpha (g^T v) = H v (Pearlmutter 1994)
        if not projected.requires_grad:
            return torch.zeros_like(vector)
        return joined(torch.autograd.grad(projected, inputs, retain_graph=True, allow_unused=True), inputs)

    return multiply


def difference_product(loss: Callable[[], Tensor], alphas: Sequence[Tensor], *, step: float = 0.05) -> Multiply:
    """Return v -> (d2 loss / d alpha2) v by central differences of the gradient: for losses without second derivatives.

    Args:
        loss: as of `hessian_product`, but differentiable once is enough.
        alphas: moved along v and put back.
        step: length of the move, in logits; the error is of the order of its square.
    """
    inputs = list(alphas)

    def gradient_at(shift: Tensor) -> Tensor:
        with restored(inputs):
            with torch.no_grad():
                for alpha, part in zip(inputs, torch.split(shift, [a.numel() for a in inputs]), strict=True):
                    alpha += part.view_as(alpha)
            return joined(torch.autograd.grad(loss(), inputs, allow_unused=True), inputs)

    def multiply(vector: Tensor) -> Tensor:
        shift = vector * (step / vector.norm())
        difference: Tensor = (gradient_at(shift) - gradient_at(-shift)) * (vector.norm() / (2 * step))
        return difference

    return multiply


def lanczos_largest_eigenvalue(
    multiply: Multiply, start: Tensor, *, max_steps: int = 40, tolerance: float = 1e-4
) -> tuple[float, int]:
    """Return the largest signed eigenvalue, and how many products it took.

    Args:
        multiply: by a symmetric matrix H of shape (n, n).
        start: a random vector, shape (n,); the dtype and device of the products.
        max_steps: products at most; n of them are exact.
        tolerance: stop when the residual of the largest Ritz pair is below this share of the largest |Ritz value|.
    """
    basis: list[Tensor] = [start / start.norm()]
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    for step in range(1, min(max_steps, len(start)) + 1):
        residual = multiply(basis[-1])
        diagonal.append(basis[-1] @ residual)
        known = torch.stack(basis)
        for _ in range(2):  # twice is enough (Parlett 1998): the basis stays orthogonal to rounding
            residual = residual - known.T @ (known @ residual)
        norm = residual.norm()
        values, vectors = _ritz(diagonal, off_diagonal)
        scale = values.abs().max()
        if norm * vectors[-1, -1].abs() <= tolerance * scale or norm <= 1e-12 * max(float(scale), 1e-30):
            return float(values[-1]), step
        off_diagonal.append(norm)
        basis.append(residual / norm)
    return float(values[-1]), step


def hutchinson_trace(multiply: Multiply, like: Tensor, *, num_samples: int, generator: torch.Generator) -> float:
    r"""Return an unbiased estimate of tr H: the mean of :math:`z^T H z` over random signs z.

    Args:
        multiply: by a symmetric matrix H of shape (n, n).
        like: shape (n,): dtype and device.
        num_samples: products to spend; the variance falls as 2 (||H||_F^2 - sum_i H_ii^2) / num_samples.
        generator: of the signs, on the CPU.
    """
    total = 0.0
    for _ in range(num_samples):
        signs = torch.randint(2, (len(like),), generator=generator).to(like) * 2 - 1
        total += float(signs @ multiply(signs))
    return total / num_samples


def _ritz(diagonal: Sequence[Tensor], off_diagonal: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues (increasing) and eigenvectors of the symmetric tridiagonal matrix, float64 on the CPU."""
    matrix = torch.diag(torch.stack(list(diagonal)).double().cpu())
    if off_diagonal:
        beside = torch.stack(list(off_diagonal)).double().cpu()
        matrix = matrix + torch.diag(beside, 1) + torch.diag(beside, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors

r"""The two updates of the posterior, as pure functions.

Notation (the paper's): every parameter has the posterior :math:`q = \mathcal N(\mu, \mathrm{diag}\,\sigma^2)` with
:math:`\sigma^2 = 1/(N s + \lambda)`, where `N` is the number of examples, :math:`\lambda = \delta` is
`prior_precision` and :math:`\tilde\delta = \delta / N`. `g` is the gradient of the mean loss over examples.

Sources: Khan et al. 2018, "Fast and Scalable Bayesian Deep Learning by Weight-Perturbation in Adam" (VAdam);
Zhang et al. 2022, "BaLeNAS", Eq. (5), (17), (18).
"""

from __future__ import annotations

from torch import Tensor

UPDATES = ("vadam", "newton")


def posterior_precision(s: Tensor, *, N: float, prior_precision: float) -> Tensor:
    """Return 1/sigma^2 = N s + delta, the precision of each parameter (Eq. 5; same shape as `s`)."""
    return N * s + prior_precision


def vadam_update(
    mu: Tensor,
    m: Tensor,
    s: Tensor,
    gradient: Tensor,
    squared_gradient: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    N: float,
    prior_precision: float,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return (mu, m, s) after one VAdam step.

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1)(\bar g + \tilde\delta \mu) \\
        s &\leftarrow \beta_2 s + (1-\beta_2)\,\overline{g^2} \\
        \mu &\leftarrow \mu - \mathrm{lr}\,\frac{m/(1-\beta_1^t)}{\sqrt{s/(1-\beta_2^t)} + \tilde\delta}

    Args:
        mu: means (logits), any shape.
        m: first moment, same shape.
        s: second moment, same shape; not bias-corrected where it defines sigma.
        gradient: mean over Monte-Carlo samples of the gradient at the sample, same shape.
        squared_gradient: mean over samples of the *squared* gradient (not the square of the mean), same shape.
        step: t, counted from 1.

    Source: Khan et al. 2018, Algorithm 1 (VAdam).
    """
    beta1, beta2 = betas
    delta_tilde = prior_precision / N
    m = beta1 * m + (1 - beta1) * (gradient + delta_tilde * mu)
    s = beta2 * s + (1 - beta2) * squared_gradient
    m_hat = m / (1 - beta1**step)
    s_hat = s / (1 - beta2**step)
    mu = mu - lr * m_hat / (s_hat.sqrt() + delta_tilde)
    return mu, m, s


def newton_update(
    mu: Tensor,
    previous_mu: Tensor,
    s: Tensor,
    gradient: Tensor,
    *,
    lr: float,
    momentum: float,
    N: float,
    prior_precision: float,
) -> tuple[Tensor, Tensor]:
    r"""Return (mu, s) after one step of the paper's literal equations: no square root, no bias correction.

    .. math::
        s_{t+1} &= (1-\beta) s_t + \beta\, \hat g \circ \hat g                                       && (18) \\
        \mu_{t+1} &= \mu_t - \beta (\hat g + \tilde\delta \mu_t) / (s_{t+1} + \tilde\delta)
                   + \gamma \frac{s_t + \tilde\delta}{s_{t+1} + \tilde\delta} (\mu_t - \mu_{t-1})     && (17)

    Args:
        mu: means (logits), any shape.
        previous_mu: the means one step earlier (at the first step: `mu` itself), same shape.
        s: second moment, same shape.
        gradient: mean over Monte-Carlo samples of the gradient at the sample, same shape.
        lr: :math:`\beta`; one rate drives both equations, as in the paper.
        momentum: :math:`\gamma`.

    Source: Zhang et al. 2022, Eq. (17)-(18); the momentum term is that of Khan et al. 2018.
    """
    delta_tilde = prior_precision / N
    s_next = (1 - lr) * s + lr * gradient * gradient  # Eq. (18)
    inertia = momentum * (s + delta_tilde) / (s_next + delta_tilde) * (mu - previous_mu)
    mu = mu - lr * (gradient + delta_tilde * mu) / (s_next + delta_tilde) + inertia  # Eq. (17)
    return mu, s_next

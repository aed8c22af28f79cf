"""VAdam: natural-gradient variational inference with the cost of Adam, as a `torch.optim.Optimizer`.

The optimizer draws, evaluates the loss at the draws and applies one of the updates of `balenas_plugin.bayes.updates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from balenas_plugin.bayes.updates import UPDATES, newton_update, posterior_precision, vadam_update
from balenas_plugin.errors import OptionError, nearest, quoted
from balenas_plugin.restoring import restored

_LARGEST = torch.finfo(torch.float32).max
_MOST_SAMPLES = 10_000


class VAdam(torch.optim.Optimizer):
    r"""Learn a Gaussian posterior over parameters: each parameter tensor *is* the mean mu.

    `step(closure)` draws :math:`\theta_k = \mu + \epsilon_k / \sqrt{N s + \lambda}` for k = 1..M, evaluates the closure
    (which computes a mean loss, calls `backward` and returns the loss) at each draw with cleared gradients, restores
    the mean whatever happens inside, and updates mu and s.

    Args:
        params: parameters or parameter groups; every option but `num_mc_samples`, `antithetic` and `noise` may differ
            by group.
        lr: learning rate; with `update="newton"` the paper's single rate beta of Eq. (17) and (18), at most 1.
        betas: decay of the first and second moment; with `update="newton"` betas[0] is the momentum gamma and betas[1]
            is not used.
        prior_precision: lambda = delta, the precision of the prior N(0, 1/delta), in 1/logit^2.
        initial_precision: precision of the posterior before the first step; at least `prior_precision`.
        dataset_size: N, the number of examples whose mean loss the closure estimates.
        num_mc_samples: M, draws per step.
        update: "vadam" (Khan et al. 2018) or "newton" (the paper's Eq. 17-18).
        antithetic: draw in pairs mu + sigma eps, mu - sigma eps: what of the gradient is odd in eps cancels, so its
            mean over a pair varies less; the mean of its square does not.
        noise: called once per parameter and sample, in parameter order, with the parameter; returns N(0, 1) noise of
            its shape. If it has a `state_dict`, that becomes part of the optimizer's.

    State per parameter: `step`, `s`, and `m` ("vadam") or `previous_mu` ("newton"). A parameter that no sample gave a
    gradient is drawn but not updated.

    Raises:
        OptionError: an option is out of range, e.g. `initial_precision < prior_precision`.

    Source: Khan et al. 2018; Zhang et al. 2022, Algorithm 1. The defaults are those of the first author's code.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        prior_precision: float = 1.0,
        initial_precision: float = 1.0,
        dataset_size: float = 25_000,
        num_mc_samples: int = 1,
        update: str = "vadam",
        antithetic: bool = False,
        noise: Callable[[Tensor], Tensor] = torch.randn_like,
    ) -> None:
        if antithetic and num_mc_samples < 2:
            raise OptionError(
                f"antithetic draws come in pairs: num_mc_samples must be at least 2, got {num_mc_samples}"
            )
        self.antithetic = antithetic
        self.noise = noise
        defaults = {
            "lr": lr,
            "betas": tuple(betas) if isinstance(betas, list) else betas,
            "prior_precision": prior_precision,
            "initial_precision": initial_precision,
            "dataset_size": dataset_size,
            "num_mc_samples": num_mc_samples,
            "update": update,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters and give each its initial posterior."""
        validate_options({**self.defaults, **{k: v for k, v in param_group.items() if k != "params"}})
        given = param_group.get("num_mc_samples", self.defaults["num_mc_samples"])
        if given != self.defaults["num_mc_samples"]:
            raise OptionError(
                f"num_mc_samples must be the same in every parameter group, got {given} beside "
                f"{self.defaults['num_mc_samples']}: the closure is evaluated once per sample for all of them"
            )
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            self._initialise(p, group)

    def _initialise(self, p: Tensor, group: dict[str, Any]) -> None:
        s0 = (group["initial_precision"] - group["prior_precision"]) / group["dataset_size"]
        mu = p.detach()
        state = self.state[p]
        state["step"] = 0
        state["s"] = torch.full_like(mu, s0)
        if group["update"] == "vadam":
            state["m"] = torch.zeros_like(mu)
        else:
            state["previous_mu"] = mu.clone()

    @property
    def num_mc_samples(self) -> int:
        """Number of Monte-Carlo samples M of a step."""
        return int(self.param_groups[0]["num_mc_samples"])

    @property
    def dataset_size(self) -> float:
        """N of the first parameter group."""
        return float(self.param_groups[0]["dataset_size"])

    def set_dataset_size(self, dataset_size: float) -> None:
        """Set N in every group before the first step, keeping the initial precision.

        Raises:
            OptionError: a step was already taken (s is measured per example, so N can no longer change).
        """
        if any(state["step"] for state in self.state.values()):
            raise OptionError(
                f"dataset_size cannot change from {self.dataset_size:g} to {dataset_size:g} after the first step: the "
                "posterior was learned with the former. Resume with the data it was started with."
            )
        for group in self.param_groups:
            validate_options({**group, "dataset_size": dataset_size})
            group["dataset_size"] = dataset_size
            for p in group["params"]:
                self._initialise(p, group)

    def precision(self, p: Tensor) -> Tensor:
        """Return the posterior precision N s + lambda of parameter `p` (same shape; 1/logit^2)."""
        group = next(group for group in self.param_groups if any(q is p for q in group["params"]))
        return self._precision(p, group)

    def _precision(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        return posterior_precision(
            self.state[p]["s"], N=group["dataset_size"], prior_precision=group["prior_precision"]
        )

    def _parameters(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for group in self.param_groups:
            for p in group["params"]:
                yield p, group

    def _mean_restored(self) -> AbstractContextManager[list[Tensor]]:
        """Restore the means when the block ends; yields them in parameter order."""
        return restored([p for p, _ in self._parameters()])

    def _noise(self) -> list[Tensor]:
        return [self.noise(p) for p, _ in self._parameters()]

    @torch.no_grad()
    def _draw(self, means: list[Tensor], noise: list[Tensor]) -> None:
        for (p, group), mu, epsilon in zip(self._parameters(), means, noise, strict=True):
            p.copy_(mu + epsilon / self._precision(p, group).sqrt())  # theta = mu + sigma eps

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Let every parameter hold one draw from q inside the block, and its mean again afterwards."""
        with self._mean_restored() as means:
            self._draw(means, self._noise())
            yield

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Draw M samples, evaluate the closure at each, update the posterior; return the mean of the losses.

        Afterwards `p.grad` holds the mean gradient over the samples.

        Raises:
            OptionError: no closure was given.
        """
        if closure is None:
            raise OptionError("VAdam.step needs a closure: it evaluates the loss at draws from the posterior")
        sums: dict[Tensor, tuple[Tensor, Tensor]] = {}
        losses = []
        noise: list[Tensor] = []
        with self._mean_restored() as means:
            for k in range(self.num_mc_samples):
                noise = [-e for e in noise] if self.antithetic and k % 2 else self._noise()
                self._draw(means, noise)
                self.zero_grad(set_to_none=True)  # or gradients of earlier samples would add up and shrink sigma
                with torch.enable_grad():
                    losses.append(closure())
                self._accumulate(sums)
        self.apply(sums, self.num_mc_samples)
        return None if losses[0] is None else sum(losses) / len(losses)

    def apply(self, sums: Mapping[Tensor, tuple[Tensor, Tensor]], draws: int) -> None:
        """Update the posterior with gradients at draws from it.

        Args:
            sums: parameter -> sum of its gradients, and sum of their squares, each of its shape.
            draws: how many there were.
        """
        self.zero_grad(set_to_none=True)
        for p, group in self._parameters():
            if p in sums:
                gradient, squared_gradient = (total / draws for total in sums[p])
                self._update(p, group, gradient, squared_gradient)
                p.grad = gradient

    def _accumulate(self, sums: dict[Tensor, tuple[Tensor, Tensor]]) -> None:
        for p, _ in self._parameters():
            if p.grad is not None:
                g = p.grad.detach()
                before = sums.get(p)
                sums[p] = (g.clone(), g * g) if before is None else (before[0] + g, before[1] + g * g)

    @torch.no_grad()
    def _update(self, p: Tensor, group: dict[str, Any], gradient: Tensor, squared_gradient: Tensor) -> None:
        state = self.state[p]
        state["step"] += 1
        lr, betas = group["lr"], group["betas"]
        N, prior_precision = group["dataset_size"], group["prior_precision"]
        mu = p.detach()
        if group["update"] == "vadam":
            new_mu, state["m"], state["s"] = vadam_update(
                mu,
                state["m"],
                state["s"],
                gradient,
                squared_gradient,
                step=state["step"],
                lr=lr,
                betas=betas,
                N=N,
                prior_precision=prior_precision,
            )
        else:
            new_mu, state["s"] = newton_update(
                mu,
                state["previous_mu"],
                state["s"],
                gradient,
                lr=lr,
                momentum=betas[0],
                N=N,
                prior_precision=prior_precision,
            )
            state["previous_mu"] = mu.clone()
        p.copy_(new_mu)

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes: state per parameter, N, M and the other options, the noise's state if it has one."""
        state = {**super().state_dict(), "antithetic": self.antithetic}
        if hasattr(self.noise, "state_dict"):
            state["noise"] = self.noise.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        super().load_state_dict(state_dict)
        self.antithetic = state_dict.get("antithetic", self.antithetic)  # older states lack it
        if "noise" in state_dict and hasattr(self.noise, "load_state_dict"):
            cast(Any, self.noise).load_state_dict(state_dict["noise"])


def validate_options(options: dict[str, Any]) -> None:
    """Check the options of one parameter group of `VAdam`.

    Raises:
        OptionError: an option has a wrong type or is out of range.
    """
    for name in ("lr", "prior_precision", "initial_precision", "dataset_size"):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise OptionError(f"{name} must be a positive number, got {quoted(value)}")
        if value > _LARGEST:
            raise OptionError(f"{name} must be at most {_LARGEST:g}, that float32 holds, got {quoted(value)}")
    betas = options["betas"]
    if (
        not isinstance(betas, (tuple, list))
        or len(betas) != 2
        or not all(isinstance(b, (int, float)) and 0 <= b < 1 for b in betas)
    ):
        raise OptionError(f"betas must be two numbers in [0, 1), got {quoted(betas)}")
    samples = options["num_mc_samples"]
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise OptionError(f"num_mc_samples must be a whole number of at least 1, got {quoted(samples)}")
    if samples > _MOST_SAMPLES:
        raise OptionError(f"num_mc_samples must be at most {_MOST_SAMPLES}, got {quoted(samples)}")
    update = options["update"]
    if update not in UPDATES:
        near = nearest(str(update), UPDATES)
        raise OptionError(f"update must be one of {', '.join(UPDATES)}, got {quoted(update)}{near}")
    if update == "newton" and options["lr"] > 1:
        raise OptionError(
            f"lr (arc_learning_rate of a search) must be at most 1 with update newton, got {options['lr']:g}: above "
            "it, Eq. (18) makes s and the precision negative"
        )
    if options["initial_precision"] < options["prior_precision"]:
        raise OptionError(
            f"initial_precision ({options['initial_precision']:g}) is below prior_precision "
            f"({options['prior_precision']:g}): posterior precision is N s + prior_precision with s >= 0, so it can "
            "never be less than the prior's. Raise initial_precision or lower prior_precision."
        )

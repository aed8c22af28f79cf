"""Random numbers whose state can be saved: of a distribution's draws, of perturbations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SeededNoise:
    """Random numbers from a generator of its own, the same on every device; its state can be saved.

    Args:
        seed: seed of the generator.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, like: Tensor) -> Tensor:
        """Return N(0, 1) noise with the shape, dtype and device of `like`."""
        return torch.randn(like.shape, generator=self._generator, dtype=like.dtype).to(like.device)

    def exponential(self, like: Tensor) -> Tensor:
        """Return Exp(1) noise with the shape, dtype and device of `like`."""
        noise = torch.empty(like.shape, dtype=like.dtype).exponential_(generator=self._generator)
        return noise.to(like.device)

    def uniform(self, like: Tensor, bound: float) -> Tensor:
        """Return noise between -bound and bound with the shape, dtype and device of `like`."""
        noise = torch.empty(like.shape, dtype=like.dtype).uniform_(-bound, bound, generator=self._generator)
        return noise.to(like.device)

    def dirichlet(self, concentration: Tensor) -> Tensor:
        """Return one sample of Dir(concentration), shape (K,)."""
        sample: Tensor = torch._sample_dirichlet(concentration.detach().cpu(), generator=self._generator)
        return sample.to(concentration.device)

    @contextmanager
    def as_torchs(self) -> Iterator[None]:
        """Let torch's own generator draw these numbers inside the block, on the CPU: for `torch.distributions`."""
        before = torch.get_rng_state()
        torch.set_rng_state(self._generator.get_state())
        try:
            yield
        finally:
            self._generator.set_state(torch.get_rng_state())
            torch.set_rng_state(before)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generator's state."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state returned by `state_dict`."""
        self._generator.set_state(state["generator"].cpu())

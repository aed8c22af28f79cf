"""Compile the supernet's forward and backward with torch.compile, or go on without and say why."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.adapters.nni.supernets.fusion_plan import Planned
from balenas_plugin.restoring import random_numbers_restored, restored
from balenas_plugin.search.mixing import MixingWeights, mixing_of

_logger = logging.getLogger(__name__)

MODES = ("default", "reduce-overhead", "max-autotune")
"""Modes of torch.compile; the second and the third capture CUDA graphs."""


class CompiledForward:
    """A network's forward, compiled, to be put in the place of its own for a while.

    Shapes are compiled where they are met while learning, in an epoch's first batch; others, such as that of an
    epoch's last and smaller batch, run as they are: each would be compiled anew. A network that cannot be compiled
    runs as it is, after one message.

    Args:
        network: whose forward is compiled when it is first called.
        mode: one of `MODES`; those that capture CUDA graphs become "default" where there is no GPU.
        keeps_gradients: whether gradients of one pass are used after the next (second order): CUDA graphs would
            overwrite them.
        verbose: whether to say what cannot be done; of several processes one does.
        mixing: has the mixing weights of the current pass, which its backward reaches besides the parameters. A pass
            of drawn candidates alone is not compiled: the next one draws others.
    """

    def __init__(
        self,
        network: nn.Module,
        mode: str,
        *,
        keeps_gradients: bool = False,
        verbose: bool = True,
        mixing: MixingWeights | None = None,
    ) -> None:
        self._verbose = verbose
        self._mixing = mixing or mixing_of(network)
        why = "this is not a GPU" if not _on_gpu(network) else 'order="second" keeps gradients over several passes'
        self.graphs = mode != "default" and _on_gpu(network) and not keeps_gradients
        if mode != "default" and not self.graphs and verbose:
            _logger.warning("compile=%r captures CUDA graphs, but %s: compiled without them", mode, why)
        self._network = network
        self._eager = network.forward
        self._compiled = torch.compile(network.forward, mode=mode if self.graphs else None, dynamic=False)
        self._known: set[Any] = set()
        self._learning = False
        self.gave_up = False

    @contextmanager
    def used(self, *, learning: bool) -> Iterator[None]:
        """Put it in the place of the network's forward inside the block."""
        self._learning = learning
        self._network.forward = self  # a callable, looked up before the class's method
        try:
            yield
        finally:
            del self._network.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's output."""
        if self._mixing.draws_paths:
            return self._eager(*args, **kwargs)
        trained = sum(p.requires_grad for p in (*self._network.parameters(), *self._mixing.used_tensors()))
        plans = [m.plan() for m in self._network.modules() if isinstance(m, Planned)]  # new ones are not compiled
        mode = torch.is_grad_enabled(), *plans
        key = (self._network.training, mode, trained, *(_shape(value) for value in args))
        if key not in self._known and self._learning and not self.gave_up:
            self._try(*args, **kwargs)
            self._known.add(key)
        if self.gave_up or key not in self._known:
            return self._eager(*args, **kwargs)
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        return self._compiled(*args, **kwargs)

    def _try(self, *args: Any, **kwargs: Any) -> None:
        """Compile forward and backward, which torch does when each first runs; plans are kept, all else is restored."""
        with random_numbers_restored(), restored(list(self._network.buffers())):
            with torch.no_grad():
                self._eager(*args, **kwargs)  # so fused modules plan, which is not for the compiler; or raises
            try:
                output = self._compiled(*args, **kwargs)
                losses = [value.sum() for value in _tensors(output) if value.requires_grad]
                if losses:
                    trained = [
                        p for p in (*self._network.parameters(), *self._mixing.used_tensors()) if p.requires_grad
                    ]
                    torch.autograd.grad(losses, trained, allow_unused=True)
            except Exception as error:  # whatever the compiler's many parts raise
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.gave_up = True
        if not self._verbose:
            return
        reason = next((line for line in map(str.strip, str(error).splitlines()) if line), "no reason given")
        _logger.warning(
            "compile: %s cannot be compiled, so it runs as it is (%s: %s)",
            type(self._network).__name__,
            type(error).__name__,
            reason[:200],
        )


def _on_gpu(network: nn.Module) -> bool:
    return any(p.device.type == "cuda" for p in network.parameters())


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value)

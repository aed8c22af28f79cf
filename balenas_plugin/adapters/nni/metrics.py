"""Keep the architecture step out of the user's torchmetrics objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torchmetrics import Metric


class Metrics:
    """The metric objects in a module, and a spare of each.

    Args:
        module: the evaluator's module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places = [
            (parent, name, metric, copy.deepcopy(metric))
            for parent in module.modules()
            for name, metric in parent.named_children()
            if isinstance(metric, Metric)
        ]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Put the spares in the metrics' places inside the block."""
        for parent, name, _, spare in self._places:
            parent._modules[name] = spare
        try:
            yield
        finally:
            for parent, name, metric, _ in self._places:
                parent._modules[name] = metric

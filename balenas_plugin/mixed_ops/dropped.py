"""What stands in the place of a candidate that a search has dropped, and of a skip connection with dropout."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from balenas_plugin.errors import SpaceError, first_line


class Dropped(nn.Module):
    """Returns zeros of the shape that a candidate would return, without its computation and its weights.

    Args:
        operation: the candidate; `before` is a copy of it without memory, which still knows its shapes.
    """

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self._before = [copy.deepcopy(operation).to("meta")]  # in a list, so that its weights are not this module's
        self._known: dict[tuple[torch.Size, bool], Any] = {}

    @property
    def before(self) -> nn.Module:
        """The candidate, without memory."""
        return self._before[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take what the candidate takes; the zeros take no memory, and cannot be written to."""
        (x, *_) = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        plain = len(args) == 1 and not kwargs
        if not plain or (x.shape, self.training) not in self._known:
            meta, named = tree_map_only(Tensor, lambda value: value.detach().to("meta"), (args, kwargs))
            try:
                with torch.no_grad():
                    self._known[x.shape, self.training] = self.before.train(self.training)(*meta, **named)
            except Exception as error:  # of a module of the user's
                raise SpaceError(
                    f"a {type(self.before).__name__} was dropped, and its shape cannot be told ({first_line(error)})"
                ) from error
        like = self._known[x.shape, self.training]
        return tree_map_only(Tensor, lambda value: x.new_zeros(()).expand(value.shape), like)


class SkipDropout(nn.Identity):
    """A skip connection whose entries are dropped with the probability `p` while the network is trained."""

    p = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return x, with entries at 0 and the others scaled up, or as it is."""
        return F.dropout(x, self.p, self.training) if self.p else x

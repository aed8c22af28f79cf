"""The state of a search as a module of the graph, so that NASLib's checkpoints, which hold the graph alone, have it.

Under ``balenas.`` a state dict holds the distribution's parameters by label and all of its `state_dict`, and what
NASLib forgets: the state of the weights' optimizer, the learning-rate schedule and the random generators. With all of
it a resumed search is the uninterrupted one, bit for bit. The first validation batch is kept as well: proxies look at
it, also when a finished search is evaluated later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.adapters.naslib.packed_state import packed, unpacked
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.restoring import random_states, set_random_states
from balenas_plugin.search import Search

NAME = "balenas"
"""Name of the module in the graph."""

_MEANINGS = ("update", "dataset_size", "prior_precision")
"""Options of an optimizer without which its state has no meaning; others, such as a learning rate, may change."""


class SavedState(nn.Module):
    """Written when the graph's state dict is taken, put into effect when one is loaded.

    Args:
        search: what is learned, and what perturbs it.
        weight_optimizer: of the graph's weights.
        scheduler: returns the schedule of its learning rate, or None while there is none.

    `example` is the batch, images (B, C, H, W) and classes (B,), on the CPU; None before there is one.
    """

    def __init__(
        self,
        search: Search,
        weight_optimizer: torch.optim.Optimizer,
        scheduler: Callable[[], Any],
    ) -> None:
        super().__init__()
        self._search, self._distribution = search, search.distribution
        self._weight_optimizer = weight_optimizer
        self._scheduler = scheduler
        self._random: dict[str, Tensor] | None = None
        self.example: tuple[Tensor, Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """Leave the search behind: NASLib copies the graph to make an architecture of it."""
        return nn.Module()

    def restore_random_numbers(self) -> None:
        """Set the random generators to where the loaded checkpoint had them; once, and not before epochs begin.

        NASLib seeds them, and makes its data loaders, around the loading of a checkpoint.
        """
        if self._random is not None:
            set_random_states(self._random)
            self._random = None

    # -- saving -------------------------------------------------------------------------------------------------------

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        scheduler = self._scheduler()
        state = {
            "learned": self._distribution.name,
            "parameters": self._distribution.parameters,
            "distribution": self._search.state_dict(),
            "weights": self._weight_optimizer.state_dict()["state"],
            "schedule": None,
            "random": random_states(),
            "example": self.example,
        }
        if scheduler is not None:
            state["schedule"] = {"epoch": scheduler.last_epoch, "learning_rates": scheduler.get_last_lr()}
        destination.update({f"{prefix}{name}": tensor for name, tensor in packed(state).items()})

    # -- loading ------------------------------------------------------------------------------------------------------

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        found = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        state = unpacked(found)
        if not state:
            older = "noise" in found
            raise FileFormatError(
                "the checkpoint is of an older version of this package: finish its search with that version"
                if older
                else "the checkpoint holds no distribution over architectures, so the architecture would be a random "
                "one. Resume with the optimizer with which it was written."
            )
        self._load_distribution(state)
        own = self._weight_optimizer.state_dict()
        self._weight_optimizer.load_state_dict({**own, "state": state["weights"]})
        self._load_schedule(state["schedule"])
        self._random = state["random"]
        if state["example"] is not None:
            images, classes = state["example"]
            self.example = (images.cpu(), classes.cpu())

    def _load_distribution(self, state: Mapping[str, Any]) -> None:
        distribution, loaded = self._distribution, dict(state["distribution"])
        if state["learned"] != distribution.name:
            raise FileFormatError(
                f"the checkpoint is of a search that learns the distribution {state['learned']!r}, and this one learns "
                f"{distribution.name!r}. Resume with the optimizer with which it was written."
            )
        if state["parameters"].keys() != distribution.parameters.keys():
            raise FileFormatError(
                "the checkpoint names other choices: it is of another search space, or of a version of this package in "
                "which those of NASLib's DARTS space had other names. Resume in the space, and version, of its search."
            )
        own = distribution.optimizer.state_dict()
        _require_same_meaning(loaded["optimizer"]["param_groups"][0], own["param_groups"][0])
        loaded["optimizer"] = {**own, "state": loaded["optimizer"]["state"]}  # options are those that are given now
        with torch.no_grad():
            for label, parameter in distribution.parameters.items():
                parameter.copy_(state["parameters"][label])
        self._search.load_state_dict(loaded)

    def _load_schedule(self, found: Mapping[str, Any] | None) -> None:
        scheduler = self._scheduler()
        if scheduler is None or not found:
            return
        rates, epoch = found["learning_rates"], found["epoch"]
        own = scheduler.state_dict()
        scheduler.load_state_dict({**own, "last_epoch": epoch, "_step_count": epoch + 1, "_last_lr": rates})
        for group, rate in zip(self._weight_optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _require_same_meaning(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    for name in _MEANINGS:
        if saved.get(name) != own.get(name):
            raise OptionError(
                f"the checkpoint was written with {name} {saved.get(name)}, and now it is {own.get(name)}: what was "
                "learned would have another meaning. Resume with the former."
            )

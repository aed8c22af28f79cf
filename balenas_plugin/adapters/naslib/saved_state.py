"""The state of a search as a module of the graph, so that NASLib's checkpoints, which hold the graph alone, have it.

Buffers hold the posterior and its noise: ``balenas.<label>.mu``, ``.precision``, ``.step``, the moments of VAdam, and
``balenas.noise``. Besides them a state dict has what NASLib forgets: the state of the weights' optimizer, the
learning-rate schedule and the random generators. With all of it a resumed search is the uninterrupted one, bit for bit.
The first validation batch is kept as well: proxies look at it, also when a finished search is evaluated later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.adapters.naslib.graphs import LabelledAlpha
from balenas_plugin.bayes.vadam import VAdam
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.restoring import random_states, set_random_states

NAME = "balenas"
"""Name of the module in the graph."""

_WEIGHTS, _SCHEDULE, _RANDOM, _EXAMPLE = "weights.", "schedule.", "random.", "example."


class SearchState(nn.Module):
    """Written when the graph's state dict is taken, put into effect when one is loaded.

    Args:
        alphas: of the graph.
        vadam: over them.
        weight_optimizer: of the graph's weights.
        scheduler: returns the schedule of its learning rate, or None while there is none.

    `example` is the batch, images (B, C, H, W) and classes (B,), on the CPU; None before there is one.
    """

    def __init__(
        self,
        alphas: Sequence[LabelledAlpha],
        vadam: VAdam,
        weight_optimizer: torch.optim.Optimizer,
        scheduler: Callable[[], Any],
    ) -> None:
        super().__init__()
        self._alphas = list(alphas)
        self._vadam = vadam
        self._weight_optimizer = weight_optimizer
        self._scheduler = scheduler
        self._random: dict[str, Tensor] | None = None
        self.example: tuple[Tensor, Tensor] | None = None
        for entry in self._alphas:
            self.add_module(entry.label, nn.Module())
        self._refresh()

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

    def _refresh(self) -> None:
        group = self._vadam.param_groups[0]
        for entry in self._alphas:
            values = {"mu": entry.alpha.detach(), "precision": self._vadam.precision(entry.alpha)}
            values |= {name: torch.as_tensor(value) for name, value in self._vadam.state[entry.alpha].items()}
            holder = self.get_submodule(entry.label)
            for name, value in values.items():
                holder.register_buffer(name, value.clone())
        for name in ("dataset_size", "prior_precision"):
            self.register_buffer(name, torch.tensor(float(group[name]), dtype=torch.float64))
        self.register_buffer("noise", self._vadam.state_dict()["noise"]["generator"])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self._refresh()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for index, state in self._weight_optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    destination[f"{prefix}{_WEIGHTS}{index}.{name}"] = value.detach()
        scheduler = self._scheduler()
        if scheduler is not None:
            rates = torch.tensor(scheduler.get_last_lr(), dtype=torch.float64)
            destination[f"{prefix}{_SCHEDULE}learning_rates"] = rates
            destination[f"{prefix}{_SCHEDULE}last_epoch"] = torch.tensor(scheduler.last_epoch)
        if self.example is not None:
            destination[f"{prefix}{_EXAMPLE}inputs"], destination[f"{prefix}{_EXAMPLE}targets"] = self.example
        for name, value in random_states().items():
            destination[f"{prefix}{_RANDOM}{name}"] = value

    # -- loading ------------------------------------------------------------------------------------------------------

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        found = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        self._require_same_search(found)
        self._load_posterior(found)
        self._load_weight_optimizer(_part(found, _WEIGHTS))
        self._load_schedule(_part(found, _SCHEDULE))
        self._random = _part(found, _RANDOM) or None
        example = _part(found, _EXAMPLE)
        if example:
            self.example = (example["inputs"].cpu(), example["targets"].cpu())
        self._refresh()

    def _require_same_search(self, found: dict[str, Tensor]) -> None:
        wanted = [name for name, _ in self.named_buffers()]
        missing = [name for name in wanted if name not in found]
        if missing:
            what = "holds no posterior of BaLeNAS" if len(missing) == len(wanted) else f"lacks {', '.join(missing[:3])}"
            raise FileFormatError(
                f"the checkpoint {what}, so the architecture would be a random one. Resume with the optimizer, the "
                "search space and the option update with which it was written."
            )
        group = self._vadam.param_groups[0]
        for name in ("dataset_size", "prior_precision"):
            if float(found[name]) != float(group[name]):
                raise OptionError(
                    f"the checkpoint was written with {name} {float(found[name]):g}, and now it is {group[name]:g}: "
                    "the posterior would not be the one learned. Resume with the former."
                )

    @torch.no_grad()
    def _load_posterior(self, found: dict[str, Tensor]) -> None:
        document = self._vadam.state_dict()
        for index, entry in enumerate(self._alphas):
            entry.alpha.copy_(found[f"{entry.label}.mu"])
            state = self._vadam.state[entry.alpha]
            loaded = {name: found[f"{entry.label}.{name}"] for name in state}
            document["state"][index] = {**loaded, "step": int(loaded["step"])}
        document["noise"] = {"generator": found["noise"]}
        self._vadam.load_state_dict(document)

    def _load_weight_optimizer(self, found: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in found.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        self._weight_optimizer.load_state_dict({**self._weight_optimizer.state_dict(), "state": state})

    def _load_schedule(self, found: dict[str, Tensor]) -> None:
        scheduler = self._scheduler()
        if scheduler is None or not found:
            return
        rates, epoch = found["learning_rates"].tolist(), int(found["last_epoch"])
        own = scheduler.state_dict()
        scheduler.load_state_dict({**own, "last_epoch": epoch, "_step_count": epoch + 1, "_last_lr": rates})
        for group, rate in zip(self._weight_optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _part(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}

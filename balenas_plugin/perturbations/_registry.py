"""Find perturbations by name."""

from __future__ import annotations

import inspect

from balenas_plugin.parts import Parts
from balenas_plugin.perturbations._perturbation import Perturbation


def _is_perturbation(candidate: object) -> bool:
    return inspect.isclass(candidate) and issubclass(candidate, Perturbation)


def _of_module(module: object) -> dict[str, type[Perturbation]]:
    own = (c for c in vars(module).values() if _is_perturbation(c) and c.__module__ == vars(module)["__name__"])
    return {perturbation.name: perturbation for perturbation in own}


PERTURBATIONS: Parts[type[Perturbation]] = Parts(
    "perturbation",
    "balenas_plugin.perturbations",
    of_module=_of_module,
    is_part=_is_perturbation,
    contract="subclass of balenas_plugin.perturbations.Perturbation",
)
list_perturbations, get_perturbation = PERTURBATIONS.names, PERTURBATIONS.get

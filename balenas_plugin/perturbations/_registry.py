"""Find perturbations by name, and make the one that an option asks for."""

from __future__ import annotations

from typing import Annotated, Any

from balenas_plugin.options import ChosenPart
from balenas_plugin.parts import Parts
from balenas_plugin.perturbations._perturbation import Perturbation

PERTURBATIONS: Parts[type[Perturbation]] = Parts(
    "perturbation", "balenas_plugin.perturbations", Perturbation, classes=True
)
list_perturbations, get_perturbation = PERTURBATIONS.names, PERTURBATIONS.get

_CHOICE: ChosenPart[Perturbation] = ChosenPart("perturbation", PERTURBATIONS, without=("seed",))

perturbation_of, perturbation_options = _CHOICE.make, _CHOICE.options

PerturbationOption = Annotated[Any, _CHOICE]
"""An option that takes a perturbation: its name, a mapping of name and options, a class, or None."""

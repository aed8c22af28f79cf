"""A perturbation as a user chooses it: which one, with which options."""

from __future__ import annotations

from typing import Annotated, Any

from balenas_plugin.options import ChosenPart
from balenas_plugin.perturbations._perturbation import Perturbation
from balenas_plugin.perturbations._registry import get_perturbation, list_perturbations

_CHOICE: ChosenPart[Perturbation] = ChosenPart(
    "perturbation", "perturbation", Perturbation, list_perturbations, get_perturbation, without=("seed",)
)

perturbation_options = _CHOICE.options

PerturbationOption = Annotated[Any, _CHOICE]
"""An option that takes a perturbation: its name, a mapping of name and options, a class, or None."""


def perturbation_of(given: Any, *, seed: int) -> Perturbation | None:
    """Return the perturbation that an option asks for, see `ChosenPart.make`; None for None.

    Args:
        given: its name, or a class; or a mapping with that as "name", and options of its constructor.
        seed: of its noise.
    """
    return _CHOICE.make(given, seed=seed)

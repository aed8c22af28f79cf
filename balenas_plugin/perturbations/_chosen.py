"""A perturbation as a user chooses it: which one, with which options."""

from __future__ import annotations

from typing import Annotated, Any

from balenas_plugin.part_option import PartOption
from balenas_plugin.perturbations._perturbation import Perturbation
from balenas_plugin.perturbations._registry import PERTURBATIONS

_OPTION: PartOption[Perturbation] = PartOption(PERTURBATIONS, without=("seed",))

PerturbationOption = Annotated[Any, _OPTION]
"""An option that takes a perturbation: its name, a mapping of name and options, a class, or None."""

perturbation_of, perturbation_options = _OPTION.made, _OPTION.options
"""What an option asks for, given `seed` of its noise; and the options that users may give to one."""

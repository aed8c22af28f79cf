"""Perturbations of the mixing weights in a search, one a file: the network learns to do well around them too.

To add one, write a module here with a subclass of `Perturbation` and its `name`, or offer the class from another
package as an entry point of the group ``balenas_plugin.perturbations``.
"""

from balenas_plugin.perturbations._perturbation import Evaluate, Level, Perturbation, Trained, onto_simplex
from balenas_plugin.perturbations._registry import (
    PerturbationOption,
    get_perturbation,
    list_perturbations,
    perturbation_of,
    perturbation_options,
)

__all__ = [
    "Evaluate",
    "Level",
    "Perturbation",
    "PerturbationOption",
    "Trained",
    "get_perturbation",
    "list_perturbations",
    "onto_simplex",
    "perturbation_of",
    "perturbation_options",
]

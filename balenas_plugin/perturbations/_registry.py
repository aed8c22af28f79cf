"""Find perturbations by name."""

from __future__ import annotations

from balenas_plugin.parts import Parts
from balenas_plugin.perturbations._perturbation import Perturbation

PERTURBATIONS: Parts[type[Perturbation]] = Parts(
    "perturbation", "balenas_plugin.perturbations", Perturbation, classes=True
)
list_perturbations, get_perturbation = PERTURBATIONS.names, PERTURBATIONS.get

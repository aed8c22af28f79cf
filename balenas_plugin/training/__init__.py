"""Train what a search has found: recipes, the trained network, what it costs.

The names are imported when they are used: Lightning takes seconds::

    from balenas_plugin.training import train           # of a run, a notation, a file: several seeds
    from balenas_plugin.training import train_network   # any module, one seed
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balenas_plugin.data import DataConfig
    from balenas_plugin.training.fitting import Devices, train_module, train_network
    from balenas_plugin.training.recipe import Recipe, list_recipes, load_recipe
    from balenas_plugin.training.seeds import train
    from balenas_plugin.training.trained_network import TrainedNetwork, TrainResult
    from balenas_plugin.training.training_data import TrainingData, load_training_data

_HOME = {
    "DataConfig": "training_data",
    "Devices": "fitting",
    "Recipe": "recipe",
    "TrainResult": "trained_network",
    "TrainedNetwork": "trained_network",
    "TrainingData": "training_data",
    "list_recipes": "recipe",
    "load_recipe": "recipe",
    "load_training_data": "training_data",
    "train": "seeds",
    "train_module": "fitting",
    "train_network": "fitting",
}

__all__ = [
    "DataConfig",
    "Devices",
    "Recipe",
    "TrainResult",
    "TrainedNetwork",
    "TrainingData",
    "list_recipes",
    "load_recipe",
    "load_training_data",
    "train",
    "train_module",
    "train_network",
]


def __getattr__(name: str) -> Any:
    """Import a name on first use (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""A strategy for NNI of every preset."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from balenas_plugin.adapters.nni.strategies.strategy import DistributionStrategy
from balenas_plugin.options import documentation
from balenas_plugin.presets import get_preset


def strategy_class(name: str) -> type[DistributionStrategy]:
    """Return the strategy of a preset, or `DistributionStrategy` itself.

    Raises:
        OptionError: there is none of that name.
    """
    return DistributionStrategy if name == DistributionStrategy.__name__ else strategy_of(name)


@cache
def strategy_of(name: str) -> type[DistributionStrategy]:
    """Return the strategy of a preset, whose signature has all of its options with their defaults.

    Raises:
        OptionError: there is no preset of that name.
    """
    preset = get_preset(name)
    made: Any = type(preset.name, (DistributionStrategy,), {"preset": preset})
    made.__module__, made.__qualname__ = "balenas_plugin", preset.name
    options = made.options_class()
    notes = f"\n\n{preset.notes}" if preset.notes else ""
    made.__doc__ = f"{preset.summary}{notes}\n\n{documentation(options)}\n\nSource: {preset.source}."
    made.__signature__ = inspect.signature(options)
    return made

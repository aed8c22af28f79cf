"""A strategy for NNI of every preset."""

from __future__ import annotations

import inspect
from functools import cache

from balenas_plugin.adapters.nni.one_shot.search_options import SearchOptions
from balenas_plugin.adapters.nni.strategies.strategy import DistributionStrategy
from balenas_plugin.distributions import get_distribution, options_of
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
    notes = f"\n\n{preset.notes}" if preset.notes else ""
    text = (
        f"{preset.summary}{notes}\n\nOptions: see `DistributionStrategy` and the distribution {preset.distribution!r}."
    )
    made = type(
        preset.name, (DistributionStrategy,), {"preset": preset, "__doc__": f"{text}\n\nSource: {preset.source}."}
    )
    made.__module__, made.__qualname__ = "balenas_plugin", preset.name
    defaults = {
        **{key: p.default for key, p in inspect.signature(SearchOptions).parameters.items()},
        **{key: p.default for key, p in options_of(get_distribution(preset.distribution)).items() if key != "lr"},
        **preset.options,
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    made.__signature__ = inspect.Signature([inspect.Parameter(k, keyword, default=v) for k, v in defaults.items()])
    return made

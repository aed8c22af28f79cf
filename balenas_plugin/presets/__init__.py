"""Methods of the literature, one or a few a file: a named choice of parts with its paper's numbers.

To add one, write a module here with a `Preset`, or offer one from another package as an entry point of the group
``balenas_plugin.presets``. The adapters make a strategy of it: `from balenas_plugin import DrNAS`, and
``strategy: {name: DrNAS}`` in a config.
"""

from balenas_plugin.presets._preset import Preset
from balenas_plugin.presets._registry import get_preset, list_presets

__all__ = ["Preset", "get_preset", "list_presets"]

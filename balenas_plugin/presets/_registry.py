"""Find presets by name."""

from __future__ import annotations

from balenas_plugin.parts import Parts
from balenas_plugin.presets._preset import Preset

PRESETS: Parts[Preset] = Parts("preset", "balenas_plugin.presets", Preset)
list_presets, get_preset = PRESETS.names, PRESETS.get

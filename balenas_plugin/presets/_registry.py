"""Find presets by name."""

from __future__ import annotations

from balenas_plugin.parts import Parts
from balenas_plugin.presets._preset import Preset


def _of_module(module: object) -> dict[str, Preset]:
    return {preset.name: preset for preset in vars(module).values() if isinstance(preset, Preset)}


PRESETS: Parts[Preset] = Parts(
    "preset",
    "balenas_plugin.presets",
    of_module=_of_module,
    is_part=lambda candidate: isinstance(candidate, Preset),
    contract="balenas_plugin.presets.Preset",
)
list_presets, get_preset = PRESETS.names, PRESETS.get

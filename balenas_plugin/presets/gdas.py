"""GDAS."""

from balenas_plugin.presets._preset import Preset

GDAS = Preset(
    name="GDAS",
    distribution="hard-gumbel",
    options={
        "first": "weights",
        "weight_step_alpha": "sample",
        "temperature": (10.0, 0.1),
        "gradient_clip_val": 5.0,
    },
    summary="Compute one drawn operation a choice; its gradient is that of a Gumbel-softmax sample.",
    source="Dong and Yang 2019, Searching for a Robust Neural Architecture in Four GPU Hours",
    notes="The reference's norm of the clipped gradient also counts the architecture's: clip_with: stale-architecture.",
)

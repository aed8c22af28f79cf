"""SDARTS, with random and with adversarial perturbations."""

from balenas_plugin.presets._preset import Preset

_SOURCE = "Chen and Hsieh 2020, Stabilizing Differentiable Architecture Search via Perturbation-based Regularization"
_NOTES = (
    "The reference's norm of the clipped gradient also counts that in the mixing weights, where these are parameters "
    "of the network (NAS-Bench-201): clip_with: architecture."
)

SDARTS_RS = Preset(
    name="SDARTS_RS",
    distribution="point",
    options={"perturbation": "sdarts-rs", "gradient_clip_val": 5.0},
    summary="DARTS whose network is trained at mixing weights with uniform noise, of a radius that grows to 0.3.",
    source=_SOURCE,
    notes=_NOTES,
)

SDARTS_ADV = Preset(
    name="SDARTS_ADV",
    distribution="point",
    options={"perturbation": "sdarts-adv", "gradient_clip_val": 5.0},
    summary="DARTS whose network is trained at the mixing weights nearby that 7 steps of ascent make worst.",
    source=_SOURCE,
    notes=_NOTES,
)

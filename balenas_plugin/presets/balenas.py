"""BaLeNAS."""

from balenas_plugin.presets._preset import Preset

BALENAS = Preset(
    name="BaLeNAS",
    distribution="gaussian",
    options={"num_mc_samples": 3},
    summary="Learn a Gaussian posterior over the architecture parameters by natural-gradient variational inference.",
    source="Zhang et al. 2022, BaLeNAS: Differentiable Architecture Search via the Bayesian Learning Rule",
)

"""PARSEC."""

from balenas_plugin.presets._preset import Preset

PARSEC = Preset(
    name="PARSEC",
    distribution="importance-weighted",
    options={"weight_step_alpha": "sample"},
    summary="Learn the probabilities of operations from the likelihoods of sampled architectures, without gradients.",
    source="Casale, Gordon and Fusi 2019, Probabilistic Neural Architecture Search",
    notes="No code of the authors is public. The number of draws, the learning rates and the split of the data are not "
    "the paper's: the validation batch weighs the draws, and the weights are trained at one of them, drawn by its "
    "importance, where the paper takes the weighted sum of all.",
)

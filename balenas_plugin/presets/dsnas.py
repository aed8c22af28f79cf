"""DSNAS."""

from balenas_plugin.presets._preset import Preset

DSNAS = Preset(
    name="DSNAS",
    distribution="categorical",
    options={
        "levels": 1,
        "weight_step_alpha": "sample",
        "arc_learning_rate": 1e-3,
        "weight_decay": 0.0,
        "fix_margin": 0.3,
    },
    summary="Learn logits and weights together, at one drawn operation a choice, by the score of the draw.",
    source="Hu et al. 2020, DSNAS: Direct Neural Architecture Search without Parameter Retraining",
    notes="Its FLOPs term, which it adds to large networks only, is a cost: {name: flops, ...}, off by default. The "
    "weights are trained with the evaluator's optimizer as in any other search.",
)

"""DropNAS."""

from balenas_plugin.presets._preset import Preset

DROPNAS = Preset(
    name="DropNAS",
    distribution="point",
    options={
        "levels": 1,
        "perturbation": {"name": "operation-dropout", "partial_decay": True},
        "gradient_clip_val": 3.0,
    },
    summary="Learn logits and weights together, while operations are dropped in groups and are then not computed.",
    source="Hong et al. 2020, DropNAS: Grouped Operation Dropout for Differentiable Architecture Search",
    notes="The weight decay of the evaluator's optimizer is that of the reference's second step, whose gradient is "
    "2 decay w. A weight that is not reached stays; the reference's older torch moved it on by its momentum. In the "
    "reference every forward pass drops operations; here validation is at the mean of all. NNI's cells are discretised "
    "by raw logits, as in the reference; a space with a rule of its own keeps that.",
)

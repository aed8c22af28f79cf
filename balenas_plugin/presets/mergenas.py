"""MergeNAS."""

from balenas_plugin.presets._preset import Preset

MERGENAS = Preset(
    name="MergeNAS",
    distribution="point",
    options={"mixed_op": "merged-convolutions", "gradient_clip_val": 5.0},
    summary="DARTS whose convolutions on an edge are parts of one kernel, convolved once.",
    source="Wang et al. 2020, MergeNAS: Merge Operations into One for Differentiable Architecture Search",
    notes="No code of the authors is public: the rules are those of the first author's later EAutoDet. Batch-norm "
    "behind the merged kernel takes the scale of its weights away, unless keep_scale: true is given.",
)

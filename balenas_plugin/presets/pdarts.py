"""P-DARTS."""

from balenas_plugin.presets._preset import Preset

PDARTS = Preset(
    name="PDARTS",
    distribution="point",
    options={"schedule": "p-darts", "arc_learning_rate": 6e-4, "gradient_clip_val": 5.0},
    summary="DARTS in three stages: the network gets deeper, operations are dropped, skip connections have dropout.",
    source="Chen et al. 2019, Progressive Differentiable Architecture Search",
    notes="The space is given at the last stage's depth: 17 cells in the paper; its stages have 25 epochs each. The "
    "architecture's gradient is not clipped. A space of other numbers of operations than the paper's 8 keeps the same "
    "shares of them: 3 and 2 of NAS-Bench-201's 5.",
)

"""PC-DARTS."""

from balenas_plugin.presets._preset import Preset

PCDARTS = Preset(
    name="PCDARTS",
    distribution="point",
    options={
        "mixed_op": {"name": "partial-channels", "k": 4, "edge_normalization": True},
        "arc_learning_rate": 6e-4,
        "gradient_clip_val": 5.0,
        "warmup_epochs": 0.3,
    },
    summary="DARTS that mixes operations on a quarter of the channels, and learns the weights of a node's edges.",
    source="Xu et al. 2020, PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search",
    notes="As in the reference, 15 epochs of 50 have no architecture steps, and in other searches the same share of "
    "all epochs; its search on ImageNet has 35: warmup_epochs: 35, with arc_learning_rate: 6e-3 and k: 2.",
)

"""GAEA."""

from balenas_plugin.presets._preset import Preset

GAEA = Preset(
    name="GAEA",
    distribution="exponentiated-gradient",
    options={"arc_learning_rate": 0.1},
    summary="Learn the mixing weights themselves by exponentiated gradient on the simplex.",
    source="Li et al. 2021, Geometry-Aware Gradient Algorithms for Neural Architecture Search",
    notes="Of first order in two levels, with all channels. In the space of PC-DARTS the reference learns the weights "
    "of edges by the same update: mixed_op: {name: partial-channels, edge_normalization: true}. Its variant of GDAS, "
    "with a rate of 0.01, is not this one.",
)

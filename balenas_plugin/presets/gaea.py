"""GAEA."""

from balenas_plugin.presets._preset import Preset

GAEA = Preset(
    name="GAEA",
    distribution="exponentiated-gradient",
    options={"arc_learning_rate": 0.1},
    summary="Learn the mixing weights themselves by exponentiated gradient on the simplex.",
    source="Li et al. 2021, Geometry-Aware Gradient Algorithms for Neural Architecture Search",
    notes="Of first order in two levels, with all channels and without learned edge weights (PC-DARTS's). The "
    "reference's variant of GDAS, with a rate of 0.01, is not this one.",
)

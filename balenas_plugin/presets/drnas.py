"""DrNAS."""

from balenas_plugin.presets._preset import Preset

DRNAS = Preset(
    name="DrNAS",
    distribution="dirichlet",
    options={"weight_step_alpha": "sample"},
    summary="Draw the mixing weights of every pass from a Dirichlet distribution, and learn its concentration.",
    source="Chen et al. 2021, DrNAS: Dirichlet Neural Architecture Search",
    notes="As the reference's search on NAS-Bench-201 with all channels; without progressive widening and pruning. "
    "Validation is at the mean, where the reference validates at a draw a batch.",
)

"""DrNAS."""

from balenas_plugin.presets._preset import Preset

DRNAS = Preset(
    name="DrNAS",
    distribution="dirichlet",
    options={"weight_step_alpha": "sample"},
    summary="Draw the mixing weights of every pass from a Dirichlet distribution, and learn its concentration.",
    source="Chen et al. 2021, DrNAS: Dirichlet Neural Architecture Search",
    notes="As the reference's search on NAS-Bench-201 with all channels; DrNASProgressive widens and prunes. "
    "Validation is at the mean, where the reference validates at a draw a batch. "
    "The reference clips the norm of the weights' gradient at 5, which is left to the evaluator here, as by DARTS: "
    "gradient_clip_val: 5.",
)

DRNAS_PROGRESSIVE = Preset(
    name="DrNASProgressive",
    distribution="dirichlet",
    options={
        "weight_step_alpha": "sample",
        "mixed_op": {"name": "partial-channels", "k": 4},
        "schedule": {"name": "drnas-progressive", "channels": (4, 2)},
        "gradient_clip_val": 5.0,
    },
    summary="DrNAS in two stages: all operations on a quarter of the channels, then the best ones on half of them.",
    source=DRNAS.source,
    notes="As the reference's progressive search on NAS-Bench-201, of 50 and 50 epochs; in the DARTS space it has k of "
    "6 and 4 (3 for ImageNet).",
)

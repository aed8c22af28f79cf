"""RSPS (also called RandomNAS), SETN and ENAS: one path a pass trains what all architectures share."""

from balenas_plugin.presets._preset import Preset

RSPS = Preset(
    name="RSPS",
    distribution="uniform",
    options={"weight_step_alpha": "sample", "gradient_clip_val": 5.0, "selection": "one-batch"},
    summary="Train the network at uniform paths, learn nothing else, and take the best of 100 random architectures.",
    source="Li and Talwalkar 2020, Random Search and Reproducibility for Neural Architecture Search",
    notes="Each of the 100 is scored by the supernet's weights on one validation batch of 512, another one each, with "
    "batch-norm by the batch's statistics. The reference's weights: SGD 0.025 to 0.001, weight decay 5e-4, batch 64, "
    "250 epochs.",
)

SETN = Preset(
    name="SETN",
    distribution="point",
    options={"weight_step_alpha": "uniform", "selection": "one-batch-enumerated"},
    summary="Train the network at uniform paths, and learn logits as DARTS does; take the best of the most probable.",
    source="Dong and Yang 2019, One-Shot Neural Architecture Search via Self-Evaluated Template Network",
    notes="As the search on NAS-Bench-201 by the same author: the 100 most probable architectures, each on one "
    "validation batch of 512. The paper's own search samples by a learned evaluator.",
)

ENAS = Preset(
    name="ENAS",
    distribution="controller",
    options={
        "first": "weights",
        "weight_step_alpha": "sample",
        "architecture_every": 8,
        "architecture_steps": 50,
        "arc_learning_rate": 1e-3,
        "gradient_clip_val": 5.0,
        "selection": "one-batch",
    },
    summary="Train the network at paths that a recurrent controller draws, and the controller by REINFORCE.",
    source="Pham et al. 2018, Efficient Neural Architecture Search via Parameter Sharing",
    notes="As the search on NAS-Bench-201 (Dong and Yang 2020), but that the 50 updates an epoch are spread over it, "
    "the 20 draws of an update see one validation batch, and the 100 final candidates are drawn choice by choice, each "
    "as often as the controller draws it. That reference's weights: SGD 0.05 to 5e-4, weight decay 2.5e-4, batch 128, "
    "250 epochs.",
)

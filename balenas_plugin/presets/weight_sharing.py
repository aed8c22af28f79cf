"""RSPS (also called RandomNAS) and SETN: one path a pass trains what all architectures share."""

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

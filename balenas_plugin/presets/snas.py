"""SNAS, and the method of NNI's GumbelDARTS."""

from balenas_plugin.presets._preset import Preset

SNAS = Preset(
    name="SNAS",
    distribution="gumbel",
    options={"levels": 1, "weight_step_alpha": "sample", "temperature": 1.0},
    summary="Learn logits and weights together, at relaxed samples of the operations.",
    source="Xie et al. 2019, SNAS: Stochastic Neural Architecture Search",
    notes="Its resource term is a cost: {name: flops, ...}, off by default. The reference anneals the temperature to "
    "0.03 only if asked to.",
)

GUMBEL_DARTS = Preset(
    name="GumbelDARTS",
    distribution="gumbel",
    options={"temperature": (1.0, 0.33), "reaches_last": False, "weight_step_alpha": "sample"},
    summary="DARTS at relaxed samples of the operations.",
    source="the relaxation of Xie et al. 2019 in the two levels of Liu et al. 2019, as NNI's GumbelDARTS",
    notes="One sample a choice and pass; NNI's own draws one for each module that shares a choice.",
)

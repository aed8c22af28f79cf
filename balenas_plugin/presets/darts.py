"""DARTS, of first and of second order."""

from balenas_plugin.presets._preset import Preset

_SOURCE = "Liu et al. 2019, DARTS: Differentiable Architecture Search"

DARTS = Preset(
    name="DARTS",
    distribution="point",
    summary="Learn the logits themselves: mixing weights are their softmax.",
    source=_SOURCE,
)

SECOND_ORDER_DARTS = Preset(
    name="SecondOrderDARTS",
    distribution="point",
    options={"order": "second"},
    summary="DARTS with the gradient through one unrolled weight step.",
    source=_SOURCE,
)

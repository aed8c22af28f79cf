"""DARTS, of first and of second order."""

from balenas_plugin.presets._preset import Preset

_NOTES = (
    "The reference clips the norm of the weights' gradient at 5: gradient_clip_val: 5. It is left to the evaluator "
    "here, so that a search is NNI's own DARTS, step by step."
)
_SOURCE = "Liu et al. 2019, DARTS: Differentiable Architecture Search"

DARTS = Preset(
    name="DARTS",
    distribution="point",
    summary="Learn the logits themselves: mixing weights are their softmax.",
    source=_SOURCE,
    notes=_NOTES,
)

SECOND_ORDER_DARTS = Preset(
    name="SecondOrderDARTS",
    distribution="point",
    options={"order": "second"},
    summary="DARTS with the gradient through one unrolled weight step.",
    source=_SOURCE,
    notes=_NOTES,
)

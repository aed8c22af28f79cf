"""The options of the diagnostics, validated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from balenas_plugin.errors import OptionError
from balenas_plugin.options import Positive, declared_options, read_options

_MOST = 10_000
"""Of draws, batches and epochs: more take hours each time that is measured."""

_Count = Annotated[int, Field(ge=1, le=_MOST)]
_Curvature = Literal["auto", "exact", "lanczos", "off"]


def _word_of(given: Any) -> Any:
    """Return `given`, or the word that YAML 1.1 reads as true or false."""
    return ("auto" if given else "off") if isinstance(given, bool) else given


@declared_options("diagnostics")
@dataclass(frozen=True, kw_only=True)
class DiagnosticsOptions:
    """What is watched during a search, and when it stops early. None of it changes the search before it stops.

    Args:
        enabled: write diagnostics at all.
        curvature: the Hessian of the validation loss in the logits: "exact" costs about one forward and backward pass
            of a batch for each logit (NAS-Bench-201 has 30), "lanczos" 25 to 55 for any number of them, "auto" is exact
            up to 64 logits, "off" leaves it out.
        curvature_every_n_epochs: how often it is measured. "auto": every 5, or as much more seldom as keeps it under a
            twentieth of the iterations; always every 5 where `stop_by` or a schedule of the strategy may go by it.
        curvature_batches: validation batches that it is averaged over: the first of the set, the same every time.
        draws: architectures drawn from what the search has learned, with a generator of their own, every epoch.
        validate: also measure the validation accuracy under strategies that do not (NNI's differentiable ones); costs
            one pass over the validation set each epoch.
        stop_by: "never", "eigenvalue" (Zela et al. 2020), or "entropy" (the choices are decided).
        window: measurements that the eigenvalue is smoothed over, and looked back by.
        factor: growth of the smoothed eigenvalue over `window` measurements that is too much.
        entropy_threshold: the choices are decided when their entropy is below this share of its maximum.

    Raises:
        OptionError: an option has a wrong type or is out of range.
    """

    enabled: bool = True
    curvature: Annotated[_Curvature, BeforeValidator(_word_of)] = "auto"
    curvature_every_n_epochs: _Count | Literal["auto"] = "auto"
    curvature_batches: _Count = 1
    draws: Annotated[int, Field(ge=0, le=_MOST)] = 100
    validate: bool = True
    stop_by: Literal["never", "eigenvalue", "entropy"] = "never"
    window: _Count = 5
    factor: Positive = 1.3
    entropy_threshold: Positive = 0.1

    def __post_init__(self) -> None:
        if self.stop_by == "eigenvalue" and not (self.enabled and self.curvature != "off"):
            raise OptionError(
                "diagnostics.stop_by is eigenvalue, so the curvature must be measured: set diagnostics.enabled to true "
                "and diagnostics.curvature to auto"
            )
        if self.stop_by == "entropy" and not self.enabled:
            raise OptionError("diagnostics.stop_by is entropy, so diagnostics.enabled must be true")

    @classmethod
    def of(cls, given: object) -> DiagnosticsOptions:
        """Return options as they are, or made of a mapping, or of true or false alone.

        Raises:
            OptionError: an option is unknown or refused.
        """
        return read_options(cls, _flag_alone(given))


def _flag_alone(given: Any) -> Any:
    return {"enabled": given} if isinstance(given, bool) else given


DiagnosticsSection = Annotated[
    DiagnosticsOptions, BeforeValidator(_flag_alone, json_schema_input_type=DiagnosticsOptions | bool)
]
"""The section of a config: the options, or true or false alone."""

"""The options of the diagnostics, validated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from balenas_plugin.errors import OptionError
from balenas_plugin.validation import require_keys, require_positive, require_whole, require_word

STOP_RULES = ("never", "eigenvalue", "entropy")
CURVATURES = ("auto", "exact", "lanczos", "off")
_MOST = 10_000
"""Of draws, batches and epochs: more take hours each time that is measured."""


@dataclass(frozen=True, kw_only=True)
class DiagnosticsOptions:
    """What is watched during a search, and when it stops early. None of it changes the search before it stops.

    Args:
        enabled: write diagnostics at all.
        curvature: the Hessian of the validation loss in the logits: "exact" costs about one forward and backward pass
            of a batch for each logit (NAS-Bench-201 has 30), "lanczos" 25 to 55 for any number of them, "auto" is exact
            up to 64 logits, "off" leaves it out.
        curvature_every_n_epochs: how often it is measured.
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
    curvature: str = "auto"
    curvature_every_n_epochs: int = 5
    curvature_batches: int = 1
    draws: int = 100
    validate: bool = True
    stop_by: str = "never"
    window: int = 5
    factor: float = 1.3
    entropy_threshold: float = 0.1

    def __post_init__(self) -> None:
        for name in ("enabled", "validate"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"diagnostics.{name} must be true or false, got {getattr(self, name)!r}")
        if isinstance(self.curvature, bool):  # YAML 1.1 reads `off` as false, and `on` as true
            object.__setattr__(self, "curvature", "auto" if self.curvature else "off")
        require_word("diagnostics.curvature", self.curvature, CURVATURES)
        require_word("diagnostics.stop_by", self.stop_by, STOP_RULES)
        for name, least in (
            ("curvature_every_n_epochs", 1),
            ("curvature_batches", 1),
            ("draws", 0),
            ("window", 1),
        ):
            require_whole(f"diagnostics.{name}", getattr(self, name), least=least, most=_MOST)
        for name in ("factor", "entropy_threshold"):
            require_positive(f"diagnostics.{name}", getattr(self, name))
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
        if isinstance(given, cls):
            return given
        if isinstance(given, bool):
            return cls(enabled=given)
        if not isinstance(given, Mapping):
            raise OptionError(f"diagnostics must be a mapping of options, or true or false, got {given!r}")
        require_keys("diagnostics", given, [field.name for field in fields(cls)])
        options: dict[str, Any] = dict(given)
        return cls(**options)

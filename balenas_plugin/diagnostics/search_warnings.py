"""Say in plain language what goes wrong in a search, and decide when to stop it early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from balenas_plugin.diagnostics.diagnostics_options import DiagnosticsOptions
from balenas_plugin.search_spaces import SearchSpace, SkipRule

Record = Mapping[str, Any]
"""The diagnostics of one epoch (see `log_file`)."""

_STANDSTILL = 0.02
"""Logits: what moved less over a whole window has changed no softmax probability by more than half a percent."""


@dataclass(frozen=True, kw_only=True)
class SearchWarning:
    """Something a user should know: what kind, what was seen, and what to do."""

    kind: str
    message: str
    cure: str

    def to_dict(self) -> dict[str, str]:
        """Return plain values."""
        return asdict(self)


def warnings_of(
    records: Sequence[Record],
    options: DiagnosticsOptions,
    *,
    skip_rule: SkipRule = SearchSpace.skip_rule,
    warmup_epochs: int = 0,
    has_posterior: bool = False,
    learns: bool = True,
) -> list[SearchWarning]:
    """Return the warnings that hold after the last of `records`.

    Args:
        records: of all epochs so far, in order.
        options: for the rule on the eigenvalue.
        skip_rule: of the space.
        warmup_epochs: at the start, in which logits are not meant to move.
        has_posterior: whether that of an earlier epoch can be exported.
        learns: whether the architecture is learned at all; else it is chance, and stays so.
    """
    searched = _after(warmup_epochs, records) if learns else []
    found = [
        _not_finite(records[-1]),
        _skips(searched, skip_rule, has_posterior),
        _rising(searched, options),
        _standing_still(searched, options.window),
    ]
    return [warning for warning in found if warning is not None]


def eigenvalue_growth(records: Sequence[Record], window: int) -> float | None:
    """Return how much the smoothed largest eigenvalue has grown over `window` measurements; None if not known yet.

    The mean of the last `window` measurements over the mean of the `window` before them (Zela et al. 2020, Sec. 4.3:
    stop when the reverse, lambda(i - k) / lambda(i), is below 0.75, that is growth above 1.33; the released code and
    this package's default say 1.3). None where the earlier mean is not positive: there is no ratio.
    """
    measured = [value for record in records if (value := record.get("eigenvalue")) is not None]
    if len(measured) < 2 * window:
        return None
    now, before = sum(measured[-window:]) / window, sum(measured[-2 * window : -window]) / window
    return now / before if before > 0 else None


def stop_reason(records: Sequence[Record], options: DiagnosticsOptions, *, warmup_epochs: int = 0) -> str | None:
    """Return why the search should stop after the last of `records`, None if it should not (see `warnings_of`)."""
    records = _after(warmup_epochs, records)
    if not records:
        return None
    if options.stop_by == "eigenvalue":
        growth = eigenvalue_growth(records, options.window)
        if growth is not None and growth > options.factor:
            return (
                f"the largest eigenvalue, smoothed over {options.window} measurements, has grown by a factor of "
                f"{growth:.2f}, more than {options.factor:g}"
            )
    if options.stop_by == "entropy":
        entropy = records[-1].get("choice_entropy")
        if entropy is not None and entropy < options.entropy_threshold:
            return (
                f"the choices are decided: their entropy is {entropy:.1%} of its maximum, below "
                f"{options.entropy_threshold:.0%}"
            )
    return None


def _after(warmup_epochs: int, records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record["epoch"] >= warmup_epochs]


def _not_finite(record: Record) -> SearchWarning | None:
    broken = record.get("not_finite") or []
    if not broken:
        return None
    return SearchWarning(
        kind="nan",
        message=f"NaN or infinite: {', '.join(broken)}. Nothing that follows means anything.",
        cure="Lower the learning rate of the weights or arc_learning_rate, or set gradient_clip_val.",
    )


def _skips(records: Sequence[Record], rule: SkipRule, has_posterior: bool) -> SearchWarning | None:
    ratios = [record.get("skip_ratio") for record in records[-2:]]  # of one epoch alone, it may be chance
    if len(ratios) < 2 or any(ratio is None or ratio <= rule.most for ratio in ratios):
        return None
    ratio = ratios[-1]
    earlier = " An earlier epoch may hold a better architecture"
    earlier += ": balenas export RUN_DIR --epoch N." if has_posterior else "."
    return SearchWarning(
        kind="skips",
        message=f"{ratio:.0%} of the chosen operations are skip connections: the search is collapsing. {rule.reason}",
        cure="Lengthen warmup_epochs, lower arc_learning_rate, or search for fewer epochs; with BaLeNAS, "
        f"weight_step_alpha: sample explores more.{earlier}",
    )


def _rising(records: Sequence[Record], options: DiagnosticsOptions) -> SearchWarning | None:
    growth = eigenvalue_growth(records, options.window)
    if growth is None or growth <= options.factor:
        return None
    return SearchWarning(
        kind="eigenvalue",
        message=f"The validation loss becomes sharp in the architecture: the largest eigenvalue has grown by a factor "
        f"of {growth:.2f} over {options.window} measurements (the early-stopping rule allows {options.factor:g}). "
        "The discrete architecture may be much worse than the supernet.",
        cure="Stop here (diagnostics.stop_by: eigenvalue does), lower arc_learning_rate, or raise weight_decay.",
    )


def _standing_still(records: Sequence[Record], window: int) -> SearchWarning | None:
    if len(records) <= window:
        return None
    earlier, now = [records[0].get("logits"), records[-1 - window].get("logits")], records[-1].get("logits")
    if not all(earlier) or not now:
        return None
    moves = [_largest_move(before, now) for before in earlier if before]
    if max(moves) >= _STANDSTILL:  # what has moved before, and then stays, is decided
        return None
    largest = moves[-1]
    return SearchWarning(
        kind="standstill",
        message=f"What is learned hardly moves: at most {largest:.2g} in the last {window} epochs. The architecture is "
        "still the one that chance began with.",
        cure="Raise arc_learning_rate (it bounds the move of a step; a short search needs more than the paper's 3e-4), "
        "or search for more epochs.",
    )


def _largest_move(before: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    moves = [
        abs(new - old)
        for label in now
        if label in before
        for old, new in zip(before[label], now[label], strict=False)
        if old is not None and new is not None
    ]
    return max(moves, default=math.inf)

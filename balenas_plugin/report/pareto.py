"""Candidates by what they are worth and what they cost: which of them no other beats in both (Pareto)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from balenas_plugin.report.plots import Picture, scatter_chart
from balenas_plugin.report.reading import NOT_KNOWN, RunData, at, number, shortened
from balenas_plugin.selection import RankedArchitecture

UNITS = {"params": "parameters", "flops": "floating-point operations", "latency": "milliseconds"}
"""Cost -> its unit."""

_MOST = 5000
"""Candidates that are read of a file, which may come from anywhere."""


@dataclass(frozen=True)
class Front:
    """Candidates of one ranking.

    Args:
        cost: "params", "flops" or "latency".
        merit: what is worth more where it is larger.
        candidates: name, merit, cost, and whether none beats it in both; the best first.
    """

    cost: str
    merit: str
    candidates: list[tuple[str, float, float, bool]]

    @classmethod
    def of(cls, ranked: Sequence[RankedArchitecture], cost: str, *, by_rank: bool) -> Front:
        """Return the candidates of a ranking, whose cost was found out, by their place in it or by their score."""
        return cls.of_records([found.to_dict() for found in ranked], cost, by_rank=by_rank)

    @classmethod
    def of_records(cls, records: Sequence[Mapping[str, Any]], cost: str, *, by_rank: bool = False) -> Front:
        """Return those of records as files have them; what has no cost or no merit is left out.

        The merit is the accuracy after training where it is known, the score of a ranking by one, else the place.
        """
        trained = any(number(at(record, ("trained", "accuracy"))) is not None for record in records)
        names = {str(name) for r in records for name in (r["scores"] if isinstance(r.get("scores"), dict) else ())}
        keys: tuple[str, ...] = ("rank",)
        merit = "place from the last"
        if trained:
            keys, merit = ("trained", "accuracy"), "accuracy after training"
        elif len(names) == 1 and not by_rank:
            keys, merit = ("scores", *names), next(iter(names))
        sign = -1 if keys == ("rank",) else 1
        found = [
            (_name(record), sign * worth, price)
            for record in records[:_MOST]
            if (worth := number(at(record, keys))) is not None and (price := number(record.get(cost))) is not None
        ]
        least = min((worth for _, worth, _ in found), default=0) if sign < 0 else 0
        front = undominated([worth for _, worth, _ in found], [price for _, _, price in found])
        return cls(
            cost,
            merit,
            [(name, worth - least, price, on) for (name, worth, price), on in zip(found, front, strict=True)],
        )

    @property
    def best(self) -> list[tuple[str, float, float]]:
        """The candidates that none beats: name, merit, cost; the cheapest first."""
        return sorted(((n, m, c) for n, m, c, on in self.candidates if on), key=lambda each: (each[2], -each[1]))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the head and the rows of those that none beats."""
        heads = [UNITS[self.cost], self.merit, "architecture"]
        return heads, [[f"{price:,.6g}", f"{worth:.5g}", name] for name, worth, price in self.best]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        columns = ("architecture", "merit", "cost", "undominated")
        rows = [dict(zip(columns, candidate, strict=True)) for candidate in self.candidates]
        return {"cost": self.cost, "merit": self.merit, "candidates": rows}

    @classmethod
    def from_dict(cls, document: object) -> Front | None:
        """Return what `to_dict` gave, which a file may have changed; None for anything else."""
        given = at(document, ("candidates",))
        cost, merit = at(document, ("cost",)), at(document, ("merit",))
        if cost not in UNITS or not isinstance(given, list):
            return None
        found = [
            (str(at(row, ("architecture",))), worth, price, at(row, ("undominated",)) is True)
            for row in given[:_MOST]
            if (worth := number(at(row, ("merit",)))) is not None and (price := number(at(row, ("cost",)))) is not None
        ]
        return cls(str(cost), shortened(str(merit), 40), found) if found else None

    def picture(self) -> Picture:
        """Return the candidates as dots, those that none beats joined by a line."""
        ends = [f"{worth:.4g} at {price:,.4g} {UNITS[self.cost]}" for _, worth, price in (self.best[0], self.best[-1])]
        return Picture(
            name="pareto",
            title=f"{self.merit} against {UNITS[self.cost]}",
            caption="Each dot is a candidate. Filled: no other is as good and as cheap, and better in one of the two.",
            alt=f"{len(self.best)} of {len(self.candidates)} candidates are undominated, from {ends[0]} to {ends[1]}.",
            draw=scatter_chart(
                [(price, worth) for _, worth, price, _ in self.candidates],
                [(price, worth) for _, worth, price in self.best],
                across=UNITS[self.cost],
                up=self.merit,
            ),
        )


def undominated(merits: Sequence[float], costs: Sequence[float]) -> list[bool]:
    """Return of each whether none of the others is as good and as cheap, and better in one of the two (Pareto).

    Args:
        merits: higher is better.
        costs: lower is better.
    """
    merit, cost = (torch.tensor(values, dtype=torch.float64) for values in (merits, costs))
    no_worse = (merit[:, None] >= merit) & (cost[:, None] <= cost)
    better = (merit[:, None] > merit) | (cost[:, None] < cost)
    return (~(no_worse & better).any(0)).tolist()


def front_of(run: RunData) -> Front | None:
    """Return what the last export of a run has ranked, or the search, if costs are known; else None."""
    exported = Front.from_dict(run.pareto)
    fronts = [Front.of_records(run.architectures, cost) for cost in UNITS]
    return exported or next((front for front in fronts if len(front.candidates) > 1), None)


def _name(record: Mapping[str, Any]) -> str:
    notation = record.get("notation")
    text = next(iter(notation.values()), None) if isinstance(notation, dict) else None
    return shortened(str(text or json.dumps(record.get("choices", NOT_KNOWN), default=str)), 200)

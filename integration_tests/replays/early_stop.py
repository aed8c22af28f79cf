"""DARTS-ES on series of eigenvalues, and DARTS+'s two criteria."""

from __future__ import annotations

from typing import Any

from balenas_plugin.schedules import Schedule, Seen, Stop
from balenas_plugin.schedules.darts_es import DartsES
from balenas_plugin.schedules.darts_plus import DartsPlus
from replays import difference, largest

INPUTS: set[str] = set()


def darts_es(document: dict[str, Any]) -> float:
    """Replay averages, stops, and the epoch whose architecture is returned."""
    off = []
    for case in document["darts_es"]:
        schedule = DartsES(
            every=case["ev_freq"],
            window=case["window"],
            factor=case["factor"],
            start=case["es_start_epoch"],
            delta=case["delta"],
        )
        last, stop_epoch = case["total_epochs"] - 1, case["total_epochs"] - 1
        rows = {row["epoch"]: row for row in case["rows"]}
        for epoch in range(max(rows) + 1):
            if schedule.looks_at_eigenvalue(epoch, epoch == last) != (epoch in rows):
                return float("inf")
            if epoch not in rows:
                continue
            row = rows[epoch]
            edits = schedule.after(Seen(epoch=epoch, last=epoch == last, eigenvalue=row["ev"]))
            stop_epoch = next((e.epoch for e in edits if isinstance(e, Stop) and e.epoch is not None), stop_epoch)
            found = [bool(edits), stop_epoch]
            off.append(
                difference(
                    (schedule.memory["averages"], row["ev_local_avg"]), (found, [row["stop_search"], row["stop_epoch"]])
                )
            )
        off.append(float([stop_epoch != last, stop_epoch] != [case["stopped"], case["stop_epoch"]]))
        off.append(float(case["stop_genotype"] != f"g{stop_epoch}"))
    return largest(off)


def darts_plus(document: dict[str, Any]) -> float:
    """Replay both criteria."""
    off = []
    for case in document["darts_plus"]:
        skips, ranking = DartsPlus(skips=case["limit"]), DartsPlus(criterion="ranking", window=case["window"])
        stops: dict[Schedule, int] = {}
        for row in case["rows"]:
            edits = {
                skips: skips.at_skips(row["skips_in_normal_cell"]),
                ranking: ranking.at_ranking(row["ranking_of_learnable_ops"]),
            }
            off.append(difference((ranking.memory["unchanged"], row["epochs_unchanged"])))
            stops |= {schedule: row["epoch"] for schedule, e in edits.items() if e and schedule not in stops}
        off.append(float(stops.get(skips) != case["criterion_1_stop_epoch"]))
        off.append(float(stops.get(ranking) != case["criterion_1star_stop_epoch"]))
    return largest(off)


SECTIONS = {"darts_es": darts_es, "darts_plus": darts_plus}

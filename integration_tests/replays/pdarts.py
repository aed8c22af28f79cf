"""P-DARTS: what each stage drops, the architecture with and without a limit on skip connections, the dropout."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from balenas_plugin.bayes.decisions import CellNode
from balenas_plugin.distributions.point import Point
from balenas_plugin.schedules import Keep, Lower, Seen
from balenas_plugin.schedules.p_darts import PDarts
from balenas_plugin.search_spaces import NONE, PARAMETER_FREE, PARAMETRIC, SKIP
from replays import difference, largest, tensor

INPUTS: set[str] = set()

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    *(f"{conv}_conv_{n}x{n}" for conv in ("sep", "dil") for n in (3, 5)),
)
KINDS = [NONE, PARAMETER_FREE, PARAMETER_FREE, SKIP, *[PARAMETRIC] * 4]
CELLS = ("normal", "reduce")
LABELS = [f"{cell}/{node}_{source}" for cell in CELLS for node in range(2, 6) for source in range(node)]
DECISIONS = [
    CellNode(cell, node, tuple(f"{cell}/{node}_{source}" for source in range(node)), 2, (tuple(OPERATIONS),) * node)
    for cell in CELLS
    for node in range(2, 6)
]


def distribution_of(stage: dict[str, Any]) -> Point:
    """Return the distribution of a stage: its alphas, of the operations that are still on."""
    parameters, on = {}, {}
    for cell in CELLS:
        labels = [label for label in LABELS if label.startswith(cell)]
        for label, kept, alphas in zip(labels, stage[f"ops_in_{cell}"], stage[f"alpha_{cell}"], strict=True):
            on[label] = kept
            parameters[label] = tensor([0.0] * len(OPERATIONS)).index_copy(0, tensor(kept).long(), tensor(alphas))
    distribution = Point(parameters)
    for label, kept in on.items():
        distribution.keep(label, kept)
    return distribution


def seen_of(distribution: Point, epoch: int) -> Seen:
    """Return what the schedule sees; 25 epochs are a stage."""
    kinds = dict.fromkeys(distribution.parameters, KINDS)
    return Seen(epoch=epoch, last=epoch == 74, scores=distribution.scores(), decisions=DECISIONS, kinds=kinds)


def schedule_of(limit: int | None) -> PDarts:
    """Return the schedule as it was run: 3 stages of 25 epochs."""
    schedule = PDarts(skip_limit=limit, kept=(5, 3))
    schedule.begin(75, dict.fromkeys(LABELS, KINDS), None)
    return schedule


def cell_of(scores: dict[str, Tensor], cell: str) -> list[list[Any]]:
    """Return a cell as pairs of operation and input."""
    chosen = [decision.choose(scores) for decision in DECISIONS if decision.cell == cell]
    return [[OPERATIONS[operation], source] for node in chosen for source, operation in node]


def genotype(stage: dict[str, Any], limit: int | None) -> tuple[dict[str, Any], int]:
    """Return both cells as the schedule's last edits leave them, and the skip connections of the normal one."""
    distribution = distribution_of(stage)
    edits = schedule_of(limit).after(seen_of(distribution, 74))
    for edit in edits:
        for label, value in getattr(edit, "labels", {}).items():
            if isinstance(edit, Lower):
                distribution.lower(label, value)
            elif isinstance(edit, Keep):
                distribution.keep(label, value)
    found = {cell: cell_of(distribution.scores(), cell) for cell in CELLS}
    return found, sum(name == "skip_connect" for name, _ in found["normal"])


def cases(document: dict[str, Any]) -> float:
    """Replay whole searches' decisions."""
    off = []
    for case in document["cases"]:
        for number, stage in enumerate(case["stages"][:2]):
            _, kept = schedule_of(2).after(seen_of(distribution_of(stage), 25 * number + 24))
            for cell in CELLS:
                found = [list(ks) for label, ks in kept.labels.items() if label.startswith(cell)]
                off.append(float(found != stage[f"ops_kept_{cell}"]))
        found, skips = genotype(case["stages"][2], None)
        off.append(float(found != case["genotype_unrestricted"] or skips != case["skips_unrestricted"]))
        for limit, restricted in case["restricted"].items():
            found, skips = genotype(case["stages"][2], int(limit))
            off.append(float(found != restricted["genotype"] or skips != restricted["skips"]))
        off.append(float(genotype(case["stages"][2], 2)[0] != case["genotype_at_most_2_skips"]))
    return largest(off)


def dropout_schedule(document: dict[str, Any]) -> float:
    """Replay the probabilities, and which epochs learn the architecture."""
    stages = document["dropout_schedule"]["stages"]
    lengths = [len(stage["epochs"]) for stage in stages]
    schedule = PDarts(
        skip_dropout=[stage["initial_rate"] for stage in stages],
        stage_epochs=lengths,
        frozen_epochs=sum(not row["arch_updated"] for row in stages[0]["epochs"]),
        kept=[8] * (len(stages) - 1),
    )
    schedule.begin(sum(lengths), {"edge": KINDS}, None)
    off = []
    for epoch, row in enumerate(row for stage in stages for row in stage["epochs"]):
        off.append(difference((schedule.skip_dropout(epoch), row["dropout_p"])))
        off.append(float(schedule.learns(epoch) != row["arch_updated"]))
    return largest(off)


SECTIONS = {"cases": cases, "dropout_schedule": dropout_schedule}

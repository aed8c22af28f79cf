"""NAS-Bench-1Shot1: alphas of a space to the module that NAS-Bench-101 knows, and its hash."""

from __future__ import annotations

from typing import Any

import torch

from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.search_spaces.nasbench1shot1 import SPACES, Blocks
from replays import largest, tensor

INPUTS: set[str] = set()


def by_label(blocks: Blocks, alphas: Any) -> dict[str, Any]:
    """Return label -> alphas of the reference's list: operations, output, inputs."""
    operations, output, *inputs = alphas
    nodes = [node for node in blocks.choosing if node <= blocks.count]
    found = {blocks.operation_label(block): row for block, row in enumerate(operations, start=1)}
    found |= {blocks.input_label(node): row for node, (row,) in zip(nodes, inputs, strict=True)}
    return {**found, blocks.input_label(blocks.count + 1): output[0]}


def discretise(document: dict[str, Any], number: int) -> float:
    """Replay a space: 0 where the matrices, the operations and the hash agree, else infinity."""
    return largest(_case(case, number) for case in document[f"space_{number}"])


def _case(case: dict[str, Any], number: int) -> float:
    space = SPACES[number]
    logits = {label: tensor(row) for label, row in by_label(space.blocks, case["alphas"]).items()}
    posterior = Posterior(logits, {label: torch.ones_like(row) for label, row in logits.items()})
    architecture = Architectures(space.decisions, posterior).discretise(logits)
    spec = space.spec(space.read(space.notation(architecture)).sample or {})
    found = (_rows(spec.matrix), _rows(spec.pruned().matrix), list(spec.pruned().operations), spec.hash())
    expected = (case["adjacency"], case["pruned_adjacency"], case["pruned_ops"], case["hash"])
    wiring = space.blocks.wiring({**architecture, **_loose_operations(space.blocks, logits)})
    return 0.0 if (*found, list(wiring.spec().operations)) == (*expected, case["ops"]) else float("inf")


def _loose_operations(blocks: Blocks, logits: dict[str, Any]) -> dict[str, str]:
    """Return the operation of every block, loose ones included, which the reference names too."""
    labels = [blocks.operation_label(block) for block in range(1, blocks.count + 1)]
    return {label: blocks.choices[label][int(logits[label].argmax())] for label in labels}


def _rows(matrix: Any) -> list[list[int]]:
    return [list(row) for row in matrix]


SECTIONS = {f"space_{number}": lambda document, number=number: discretise(document, number) for number in SPACES}

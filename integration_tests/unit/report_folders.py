"""Folders of runs for reports, made without a search."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import yaml

from balenas_plugin.diagnostics.log_file import write_log
from balenas_plugin.search_spaces import nasbench201

OPERATIONS = ["none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3"]
LABELS = list(nasbench201.to_nni((0,) * 6))


def make_run(
    folder: Path,
    *,
    seed: int = 0,
    strategy: str = "BaLeNAS",
    epochs: int = 6,
    accuracy: float = 93.0,
    labels: dict[str, list[str]] | None = None,
    diagnostics: bool = True,
    finished: bool = True,
    **settings: Any,
) -> Path:
    """Write the folder of a run whose numbers are simple functions of the epoch; return it."""
    folder.mkdir(parents=True)
    choices = labels or dict.fromkeys(LABELS, OPERATIONS)
    config: dict[str, Any] = {
        "name": folder.name,
        "seed": seed,
        "strategy": {"name": strategy, **settings},
        "evaluator": {"epochs": 6},
    }
    if labels is None:
        config["space"] = {"name": "NasBench201"}
    (folder / "config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    manifest = {"status": "finished" if finished else "running", "seed": seed, "strategy": strategy, "sessions": []}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["epoch", "train_acc", "val_acc"])
        writer.writeheader()
        for epoch in range(epochs):
            writer.writerow({"epoch": epoch, "train_acc": 0.1 * epoch, "val_acc": 0.09 * epoch})
    records = [record(epoch, choices, accuracy, posterior=strategy == "BaLeNAS") for epoch in range(epochs)]
    if diagnostics:
        write_log(folder / "diagnostics.jsonl", {"choices": choices}, records)
    if finished:
        architectures = [architecture(rank, choices, accuracy) for rank in (1, 2)]
        (folder / "architectures.json").write_text(json.dumps(architectures), encoding="utf-8")
    return folder


def record(epoch: int, choices: dict[str, list[str]], accuracy: float, *, posterior: bool) -> dict[str, Any]:
    """Return the diagnostics of an epoch."""
    found: dict[str, Any] = {
        "epoch": epoch,
        "val_acc": 0.09 * epoch,
        "choice_entropy": 1 - 0.1 * epoch,
        "skip_ratio": 0.5,
        "parameter_free_share": 0.5,
        "cells": {"cell": {"depth": 2, "width": 1.5}},
        "logits": {label: [0.1 * epoch * k for k in range(len(names))] for label, names in choices.items()},
        "probabilities": {label: [1 / len(names)] * len(names) for label, names in choices.items()},
        "ground_truth": {"unseen_by_search": True, "accuracy": {"cifar10": accuracy - 5 + epoch}},
        "draws": {"skip_ratio": 0.2, "ground_truth": {"accuracy": {"cifar10": [80.0 + k for k in range(11)]}}},
        "alarms": [{"kind": "skips", "message": "50% are skip connections.", "cure": "Lower arc_learning_rate."}],
    }
    if posterior:
        found["precision"] = {label: [1.0 + epoch] * len(names) for label, names in choices.items()}
        found["sigma"] = {"mean": 1 / math.sqrt(1 + epoch), "least": 0.3, "most": 1.0}
        found["eigenvalue"] = 0.1 * (epoch + 1)
        found["trace"] = 0.3
        found["own"] = {"effective_sample_size": 2.0 + epoch}
    return found


def architecture(rank: int, choices: dict[str, list[str]], accuracy: float) -> dict[str, Any]:
    """Return an entry of architectures.json."""
    architecture = {label: names[rank % len(names)] for label, names in choices.items()}
    return {
        "rank": rank,
        "chosen_by": "argmax of the mean" if rank == 1 else "posterior probability",
        "probability": 0.25 / rank,
        "choices": architecture,
        "notation": {},
        "winning_probability": dict.fromkeys(architecture, 0.5),
        "ground_truth": {"values": {"cifar10": {"test_accuracy": accuracy}}, "rank": {"cifar10": 7}},
    }

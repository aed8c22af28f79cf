"""`balenas latency` measures a table, and a search counts it in on this machine alone."""

from __future__ import annotations

import json
from pathlib import Path

from .commands import balenas, refused


def test_a_table_is_measured_and_searched_with(folder: Path) -> None:
    ended = balenas("latency", "tiny.yml", "--repeats", 2, "--unit", "us", folder=folder)
    assert ended.code == 0, ended.errors
    assert "latency.json: 6 choices of NasBench201" in ended.output
    table = json.loads((folder / "latency.json").read_text())
    assert (table["unit"], table["threads"], table["image_shape"], table["space"]) == (
        "us",
        1,
        [3, 8, 8],
        "NasBench201",
    )
    assert table["costs"]["cell/0_1"]["none"] == 0 < table["costs"]["cell/0_1"]["conv_3x3"]
    cost = "strategy={name: ProxylessNAS, cost: {name: latency, table: latency.json, reference: 900, form: mul#log}}"
    found = balenas("search", "tiny.yml", "--set", cost, folder=folder)
    assert found.code == 0, found.errors
    (folder / "latency.json").write_text(json.dumps({**table, "processor": "of another kind"}))
    message = refused("search", "tiny.yml", "--set", cost, "--output", "runs/other", folder=folder)
    assert "(of another kind), and this is" in message

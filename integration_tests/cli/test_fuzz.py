"""Whatever a config or a file of a run holds, a command ends with 0, or with 2 and one line; no other way, in seconds.

Everything runs in this process, where an error that is not turned into a line fails the test with its traceback.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from balenas_plugin.cli import main
from balenas_plugin.config import load_config
from balenas_plugin.errors import BalenasError

from .conftest import TINY

ODD = (
    *(
        None,
        True,
        "",
        "x",
        "~nobody/x",
        "a" * 300,
        "\n",
        -1,
        0,
        1,
        3,
        10**6,
        10**30,
        -(2**63),
        0.5,
        1e-320,
        1e39,
        1e308,
    ),
    *(float("inf"), float("nan"), [], [1], [[]], {}, {"name": None}, {"name": "x"}, {"x": {"y": [0]}}, 2**63, "1" * 99),
)

ODD_BYTES = (b"[" * 2000, b"9" * 5000, b"&a [*a]", b"\x00", b"\xff\xfe", b"!!set ", b"{}")


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a tree with each of its keys."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(entries):
        yield tree, key
        yield from places(value)


def mutated_tree(tree: Any, rng: random.Random) -> Any:
    """Return a copy of a tree with one to three values replaced, removed, moved or added."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(list(places(tree)) or [({}, "x")])
        match rng.randrange(4):
            case 0 | 1:
                container[key] = rng.choice(ODD)
            case 2 if isinstance(container, dict):
                del container[key]
            case _:
                container[key] = json.loads(json.dumps(tree))
    return tree


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with some changed, cut off, doubled or put in."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(damaged) + 1)
        match rng.randrange(5):
            case 0:
                damaged[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del damaged[at : at + rng.randrange(1, 200)]
            case 2:
                damaged[at:at] = damaged[rng.randrange(len(damaged) + 1) :][: rng.randrange(200)]
            case 3:
                damaged[at:at] = rng.choice(ODD_BYTES)
            case 4:
                del damaged[at:]
    return bytes(damaged)


def test_any_text_is_a_config_or_refused(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "search.yml"
    text = yaml.safe_dump(TINY).encode()
    for _ in range(200):
        tree = rng.random() < 0.6
        path.write_bytes(yaml.safe_dump(mutated_tree(TINY, rng)).encode() if tree else mutated_bytes(text, rng))
        with contextlib.suppress(BalenasError):
            yaml.safe_load(load_config(path).to_yaml())


def mutated_checkpoint(path: Path, rng: random.Random) -> None:
    """Damage a checkpoint: its bytes, or what it holds, with and without the seal that would report it."""
    if rng.random() < 0.3:
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
        return
    content = torch.load(path, weights_only=True)
    if rng.random() < 0.7:
        del content["balenas_seal"]
    container, key = rng.choice([*((content, key) for key in content), *places(content["callbacks"])])
    values = (None, [], {}, torch.zeros(3), 1, "x", {"a": torch.full((2,), float("nan"))})
    container[key] = rng.choice(values)
    weights = content.get("state_dict")
    if isinstance(weights, dict) and rng.random() < 0.5:
        name = rng.choice(list(weights))
        weights[name] = rng.choice([torch.zeros(3), weights[name].double(), weights[name] * float("nan"), None])
    torch.save(content, path)


def damage(run: Path, rng: random.Random) -> str:
    """Damage one file of a run; return its name."""
    name = rng.choice(["config.yml", "manifest.json", "posterior.json", "checkpoints/last.ckpt"])
    path = run / name
    if name.endswith(".ckpt"):
        mutated_checkpoint(path, rng)
    elif rng.random() < 0.4:
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    elif name.endswith(".json"):
        path.write_text(json.dumps(mutated_tree(json.loads(path.read_text()), rng)))
    else:
        path.write_text(yaml.safe_dump(mutated_tree(yaml.safe_load(path.read_text()), rng)))
    if name == "posterior.json" and rng.random() < 0.7:  # as if whoever changed it knew of the digests
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps({**manifest, "sha256": {}}))
        path.write_bytes(path.read_bytes().replace(b'"sha256"', b'"unknown"'))
    return name


def ends_well(arguments: list[str], capsys: pytest.CaptureFixture[str], reported: str) -> int:
    """Run a command in this process; return its exit code, which must be 0, or 2 with one line."""
    code = main(arguments)
    errors = capsys.readouterr().err
    assert code in (0, 2), (reported, errors)
    if code == 2:
        assert errors.count("balenas: ") == 1, (reported, errors)
        assert len(errors) < 4000, reported
    return code


def test_any_run_is_exported_or_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng, codes = random.Random(0), set()
    for number in range(12):
        run = Path(shutil.copytree(finished, tmp_path / str(number)))
        name = damage(run, rng)
        codes.add(ends_well(["export", str(run), "--samples", "2", "--format", "csv"], capsys, f"{number}: {name}"))
    assert 2 in codes


FEW: dict[str, Callable[[], Any]] = {
    "strategy": lambda: {"name": "BaLeNAS", "num_mc_samples": 1, "betas": [0.5, 0.9], "warmup_epochs": 0},
    "evaluator": lambda: {"epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "optimizer": {"lr": 0.1}},
}


def test_any_config_is_searched_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    config = {**TINY, **{section: make() for section, make in FEW.items()}, "diagnostics": False}
    for number in range(12):
        tree = mutated_tree(config, rng)
        if isinstance(tree, dict) and isinstance(tree.get("evaluator"), dict):
            tree["evaluator"]["epochs"] = 1 if isinstance(tree["evaluator"].get("epochs"), int) else -1
        (tmp_path / "fuzz.yml").write_text(yaml.safe_dump(tree))
        ends_well(["search", "fuzz.yml", "--output", str(number)], capsys, str(tree))

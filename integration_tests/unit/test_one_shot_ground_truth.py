"""NAS-Bench-101's accuracies of NAS-Bench-1Shot1, from every file that somebody may have."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from balenas_plugin.errors import DataError, FileFormatError, SpaceError
from balenas_plugin.search_spaces.nasbench1shot1 import BLOCKS, CONV3X3, SPACES, ModuleSpec
from balenas_plugin.search_spaces.nasbench1shot1.ground_truth import Reader, find_table, import_table
from balenas_plugin.search_spaces.nasbench1shot1.tfrecord import fields, masked_crc32c

from .nasbench101_layouts import Trial, record, write_database, write_tfrecord

WIRINGS = list(itertools.islice(BLOCKS[1].wirings(), 0, 200, 10))
OUTSIDE = ModuleSpec.of([[0], [0], [0], [0, 1, 2, 3]], [CONV3X3] * 3)  # its output has four parents
TRIALS = [
    Trial(wiring.spec().pruned(), epochs, 0.9 + 0.001 * k + 0.0001 * run, 0.8 + 0.001 * k + 0.0001 * run)
    for k, wiring in enumerate(WIRINGS)
    for epochs in (4, 108)
    for run in range(3)
] + [Trial(OUTSIDE, 108, 0.99, 0.99)]
HELD = len({wiring.spec().hash() for wiring in WIRINGS})


def write_csv(path: Path, trials: list[Trial]) -> None:
    """Write a table by hash with the mean of a module's trainings."""
    by_hash = {t.spec.hash(): [o for o in trials if o.spec == t.spec and o.epochs == 108] for t in trials}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["hash", "validation_accuracy", "test_accuracy"])
        for name, of in by_hash.items():
            writer.writerow([name, *(sum(getattr(t, which) for t in of) / len(of) for which in ("valid", "test"))])


WRITERS: dict[str, Callable[[Path, list[Trial]], None]] = {
    "nasbench_only108.tfrecord": write_tfrecord,
    "nasbench101.db": write_database,
    "mine.csv": write_csv,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_layout_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    different = {t.spec.key(): t for t in TRIALS}
    WRITERS[name](tmp_path / name, [t for t in TRIALS if t.spec in {d.spec for d in different.values()}])
    benchmark = Reader(1).open_benchmark(tmp_path / name)
    space = SPACES[1]
    for wiring in WIRINGS[:3]:
        architecture = space.blocks.architecture(wiring)
        trial = different[wiring.spec().key()]
        of = [t for t in TRIALS if t.spec == trial.spec and t.epochs == 108]
        test, valid = (100 * sum(getattr(t, which) for t in of) / len(of) for which in ("test", "valid"))
        for given in (architecture, space.notation(architecture), trial.spec.hash()):
            assert benchmark.query(given, "cifar10", "test_accuracy") == pytest.approx(test)
            assert benchmark.query(given, "cifar10", "valid_accuracy") == pytest.approx(valid)
    best = benchmark.describe(space.notation(space.blocks.architecture(WIRINGS[-1])))
    assert (best.rank["cifar10"], best.regret["cifar10"], best.num_architectures) == (1, 0, HELD)
    if name == "mine.csv":
        return
    assert best.num_seeds % 3 == 0
    assert best.values["cifar10"]["params_m"] == pytest.approx(2.694282)
    assert benchmark.lowest_error("test_accuracy") == pytest.approx(100 - 81.92)
    assert import_table(tmp_path / name, tmp_path / "nb1shot1.parquet") == HELD
    imported = Reader(1).open_benchmark(tmp_path)
    assert imported.describe(best.architecture).values == best.values


def test_what_a_table_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tfrecord(tmp_path / "nasbench_only108.tfrecord", TRIALS)
    benchmark = Reader(1).open_benchmark(tmp_path)
    lacking = SPACES[1].notation(SPACES[1].blocks.architecture(list(BLOCKS[1].wirings())[-1]))
    assert lacking not in benchmark.positions
    assert "conv3x3~0" not in benchmark.positions
    with pytest.raises(DataError, match=rf"holds {HELD} of the 2,685 different networks of NAS-Bench-1Shot1, space 1"):
        benchmark.query(lacking, "cifar10", "test_accuracy")
    third = Reader(3).open_benchmark(tmp_path)
    name = next(iter(third.positions))
    assert SPACES[3].spec(SPACES[3].read(third.describe(name).architecture).sample or {}).hash() == name
    assert "by_hash" not in vars(BLOCKS[3])  # the list of all networks, which takes a minute
    monkeypatch.setenv("BALENAS_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_table() is None
    with pytest.raises(DataError, match=r"nasbench_only108\.tfrecord.*github\.com/google-research/nasbench"):
        Reader(3).open_benchmark()


def test_damaged_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    whole = record(TRIALS[3])
    damages = {"cut short": whole + whole[:40], "other": b"\x80\x02" * 40, "length": b"\x09" + whole[1:]}
    damages |= {"empty": b"", "one bit": whole[:-12] + bytes([whole[-12] ^ 1]) + whole[-11:]}
    for name, content in damages.items():
        path = tmp_path / f"{name}.tfrecord"
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"record|has no accuracy"):
            Reader(1).open_benchmark(path)
    structured = "hash,edges,ops,test_accuracy\n"
    for content, message in {
        "": r"needs a column `hash`.*it has none",
        "architecture,accuracy\n1,2\n": "needs a column `hash`",
        f"{structured}a,1,3,0.9\n": "no module: `edges` needs",
        f"{structured}a,1111,3,0.9\n": "no module: `edges` needs",
        f"{structured}a,111,z,0.9\n": "`ops` one of 3, 1, m",
    }.items():
        (tmp_path / "x.csv").write_text(content)
        with pytest.raises(FileFormatError, match=message):
            Reader(1).open_benchmark(tmp_path / "x.csv")
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    with pytest.raises(ValueError, match="cut short"):
        list(fields(b"\x09\x00"))
    with pytest.raises(SpaceError, match="2 different ones below 5"):
        SPACES[1].read("conv3x3~0|conv3x3~0,1|conv3x3~0,1|conv3x3~1,2|output~1,1")


def test_rows_are_trainings_and_those_without_a_number_do_not_count(tmp_path: Path) -> None:
    known, other = (wiring.spec().hash() for wiring in (WIRINGS[0], WIRINGS[-1]))
    rows = [f"{known},0.{9 + k},1234567.0" for k in range(-1, 1)] + [f"{other},,", f"{other},nan,1"]
    (tmp_path / "x.CSV").write_text("\n".join(["hash,test_accuracy,trainable_parameters", *rows]), encoding="utf-8-sig")
    truth = Reader(1).open_benchmark(tmp_path / "x.CSV").describe(known)
    assert (truth.num_architectures, truth.num_ranked, truth.ranked_by) == (
        1,
        {"cifar10": 1},
        {"cifar10": "test_accuracy"},
    )
    assert truth.values["cifar10"] == pytest.approx(
        {"test_accuracy": 85, "test_accuracy_s0": 80, "test_accuracy_s1": 90, "params_m": 1.234567}
    )


def test_real_rows_are_in_the_spaces_that_the_reference_lists(data_dir: Path) -> None:
    slice_ = Reader(1).open_benchmark(data_dir / "nb101_slice.parquet")
    assert slice_.ranked_by == {"cifar10": "valid_accuracy"}
    with pq.ParquetFile(data_dir / "nb1shot1_architectures.parquet") as file:
        listed = file.read(["hash", "in_space_1", "val_e108"]).to_pylist()
    known = {row["hash"]: 100 * row["val_e108"] for row in listed if row["in_space_1"] and row["val_e108"] is not None}
    held = {name: slice_.query(name, "cifar10", "valid_accuracy") for name in slice_.positions}
    assert {name: held.get(name) for name in known} == pytest.approx(known)
    for name in itertools.islice(known, 5):
        wiring = BLOCKS[1].by_hash[name]
        assert wiring.spec().hash() == BLOCKS[1].wiring_of(wiring.spec()).spec().hash() == name
    everything = Reader(1).open_benchmark(data_dir / "nb1shot1_architectures.parquet")
    assert everything.held.startswith(f"nb1shot1_architectures.parquet holds {len(known)} of the 2,685 different")
    assert len(BLOCKS[1].by_hash) == SPACES[1].num_networks

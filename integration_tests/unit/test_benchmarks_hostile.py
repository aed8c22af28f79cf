"""Benchmark files that somebody has made to do harm, or that hold what cannot be: refused, and the table stays."""

from __future__ import annotations

import bz2
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from balenas_plugin.benchmarks import import_official, official_file, open_benchmark
from balenas_plugin.benchmarks.pickles.plain_pickle import PlainReader
from balenas_plugin.errors import FileFormatError
from balenas_plugin.search_spaces.nasbench201 import format_string

ARCHITECTURE = format_string((3,) * 6)
DEEP = b")" + b"\x85" * 300_000
"""A tuple in a tuple in a tuple ...: its hash overflows the stack."""

ENDLESS = b")q\x00" + b"".join(b"h%c\x86q%c" % (depth, depth + 1) for depth in range(60))
"""Sixty pairs, each of the one before and itself: its hash, and its text, take 2**60 steps."""


@pytest.mark.parametrize("nested", [DEEP, ENDLESS], ids=["deep", "endless"])
@pytest.mark.parametrize(
    ("start", "end"),
    [
        (b"\x80\x02}", b"K\x01s."),
        (b"\x80\x02}(", b"K\x01u."),
        (b"\x80\x04\x8f(", b"\x90."),
        (b"\x80\x02c__builtin__\nset\n](", b"e\x85R."),
        (b"\x80\x02ccollections\nOrderedDict\n](", b"K\x01\x86e\x85R."),
        (b"\x80\x02cnumpy\ndtype\n(", b"\x88\x89tR."),
        (b"\x80\x02c_codecs\nencode\n(X\x00\x00\x00\x00", b"tR."),
        (b"\x80\x04", b"X\x01\x00\x00\x00x\x93."),
    ],
    ids=["item", "items", "set", "called set", "ordered", "dtype", "encoding", "global"],
)
def test_nested_tuples_are_not_hashed_and_not_written_out(nested: bytes, start: bytes, end: bytes) -> None:
    with pytest.raises(FileFormatError, match="not a pickle of plain data"):
        PlainReader(io.BytesIO(start + nested + end), name="file").load()


def test_a_long_tuple_is_no_key() -> None:
    """It is hashed at each of its uses, which take two bytes: minutes for a file of a megabyte."""
    with pytest.raises(FileFormatError, match="a key of more than 8 entries"):
        PlainReader(io.BytesIO(pickle.dumps({tuple(range(9)): 1}, protocol=2)), name="file").load()


def schedules(
    *, index: Any = 0, arch_str: Any = ARCHITECTURE, seeds: int = 1, all_results: Any = None, **trial: Any
) -> dict[str, dict[str, Any]]:
    """Return what an official file holds of an architecture."""
    measured = {"epochs": 200, "eval_acc1es": {"ori-test@199": 94.0}, "train_times": None, "latency": None}
    measured |= {"params": 1.0, "flop": 1.0, **trial}
    results = {("cifar10", 777 + seed): measured for seed in range(seeds)} if all_results is None else all_results
    schedule = {"arch_index": index, "arch_str": arch_str, "all_results": results}
    return {"full": schedule, "less": schedule}


def pair(depth: int) -> list[Any]:
    """Return a list of two that are the same, `depth` times over."""
    return [] if depth == 0 else [inner := pair(depth - 1), inner]


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "infinite index": ({"index": float("inf")}, "architecture inf: OverflowError"),
    "large index": ({"index": 2**40}, "its number is not from 0 to 15624"),
    "negative index": ({"index": -1}, "its number is not from 0 to 15624"),
    "index of lists": ({"index": pair(60)}, "architecture .*TypeError"),
    "seeds": ({"seeds": 200}, "it has 200 seeds, and 3 are the most"),
    "accuracies in a list": ({"eval_acc1es": [1.0]}, "AttributeError"),
    "times in a list": ({"train_times": [1.0]}, "AttributeError"),
    "large accuracy": ({"eval_acc1es": {"ori-test@199": 10**400}}, "OverflowError"),
    "fraction of a percent": ({"eval_acc1es": {"ori-test@199": 940.0}}, "c10_test is 940, not from 0 to 100 percent"),
    "results in a list": ({"all_results": [pair(60), pair(60)]}, "AttributeError"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_is_refused_and_the_table_stays(case: str, tmp_path: Path) -> None:
    changes, message = IMPOSSIBLE[case]
    table, source = tmp_path / "table.parquet", tmp_path / "bad.pth"
    source.write_bytes(pickle.dumps({0: schedules()}, protocol=2))
    import_official(source, table)
    good = table.read_bytes()
    source.write_bytes(pickle.dumps({0: schedules(**changes)}, protocol=2))
    with pytest.raises(FileFormatError, match=f"bad.*does not have the layout of NAS-Bench-201: .*{message}"):
        import_official(source, table)
    assert table.read_bytes() == good
    assert open_benchmark(table).query(ARCHITECTURE, "cifar10", "test_accuracy") == 94.0


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(8, 1, "encrypted"), (10, 99, "compression method"), (10, 14, "damaged"), (46, 255, "damaged")],
    ids=["encrypted", "method 99", "method 14", "name"],
)
def test_a_zip_archive_that_pytorch_would_not_write(place: int, value: int, message: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("ärchive/data.pkl", b"\x09\x04\x05\x00" + b"\xff" * 40)  # to LZMA, method 14: bad options
    content = bytearray(stream.getvalue())
    content[content.find(b"PK\x01\x02") + place] = value  # in the directory
    content[place - 2] = value  # and at the member, where place is not that of the name
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        open_benchmark(tmp_path / "file.pth")


@pytest.mark.parametrize("opcode", [b"h\x07", b"j\xff\xff\xff\xff"], ids=["short", "long"])
def test_a_reference_to_nothing_ends_the_reading(opcode: bytes, tmp_path: Path) -> None:
    """It was read again for ever, for the entry that would be kept this time."""
    file = tmp_path / "f.pth"
    file.write_bytes(b"\x80\x02" + opcode + b".")
    with pytest.raises(FileFormatError, match="refers to object"):
        import_official(file, tmp_path / "table.parquet")


def test_a_reference_to_nothing_among_many_architectures_ends_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it may be an entry that was dropped, which the second reading keeps."""
    monkeypatch.setattr(official_file, "is_architecture", lambda dictionary: dictionary.get("x") == 1)
    monkeypatch.setattr(official_file, "reduce_architecture", lambda dictionary, source: dictionary)
    item = b"}X\x01\x00\x00\x00xK\x01s"
    (tmp_path / "f.pth").write_bytes(b"\x80\x02](" + item * 10 + b"j\xff\xff\xff\x7fe.")
    with pytest.raises(FileFormatError, match="refers to objects that it does not hold"):
        official_file.read_official(tmp_path / "f.pth")


def test_a_small_file_of_one_large_text_is_not_unpacked(tmp_path: Path) -> None:
    """743 bytes of bzip2 took 2.5 GB."""
    text = b"A" * (40 << 20)
    packed = bz2.compress(b"\x80\x04\x8d" + len(text).to_bytes(8, "little") + text + b".")
    assert len(packed) < 1000
    taken = 0

    class Counted(bz2.BZ2File):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal taken
            taken += (data := super().read(size)).__len__()
            return data

    with pytest.raises(FileFormatError, match="more than 16 MiB"):
        PlainReader(Counted(io.BytesIO(packed)), name="file").load()  # type: ignore[arg-type]
    assert taken < 20 << 20
    many = b"\x80\x04](" + (b"B\x00\x00\x10\x00" + b"A" * (1 << 20)) * 40 + b"e."
    with pytest.raises(FileFormatError, match="more than 16 MiB"):
        PlainReader(io.BytesIO(many), name="file").load()

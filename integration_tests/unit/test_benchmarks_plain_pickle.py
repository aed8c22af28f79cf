import collections
import contextlib
import io
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balenas_plugin.benchmarks.pickles.plain_pickle import GENERATIONS, PlainReader
from balenas_plugin.benchmarks.pickles.plain_values import DROPPED
from balenas_plugin.errors import FileFormatError


def read(data, **options):
    return PlainReader(io.BytesIO(data), name="file", **options).load()


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.text(), st.integers()), inner)
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=15,
)


@settings(deadline=None)
@given(plain, st.integers(2, 5))
def test_plain_data_is_read_as_pickle_reads_it(value, protocol):
    value = [value, value]  # a reference to the memo
    assert read(pickle.dumps(value, protocol=protocol)) == value


@settings(deadline=None)
@given(plain, st.randoms())
def test_damaged_data_never_raises_anything_else(value, source):
    data = bytearray(pickle.dumps(value, protocol=source.randint(2, 5)))
    for _ in range(3):
        data[source.randrange(len(data))] = source.randrange(256)
    with contextlib.suppress(FileFormatError):
        read(bytes(data[: source.randint(0, len(data))]))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "number",
    [np.float64(1.5), np.float32(-0.25), np.float16(2), np.int64(-(2**40)), np.uint8(200), np.bool_(True), np.int32(7)],
)
def test_numpy_numbers_become_python_numbers(number, protocol):
    found = read(pickle.dumps([number, number], protocol=protocol))
    assert found == [number.item()] * 2
    assert type(found[0]) is type(number.item())


def test_big_endian_numbers_keep_their_value():
    number = np.dtype(">f8").type(1.5)
    data = pickle.dumps(np.array([1.5], ">f8")[0], protocol=2)
    assert read(data) == number == 1.5


def test_ordered_dictionaries_keep_their_order():
    ordered = collections.OrderedDict((str(number), number) for number in random.Random(0).sample(range(3000), 3000))
    assert list(read(pickle.dumps(ordered, protocol=2)).items()) == list(ordered.items())


def test_long_content_crosses_the_chunks_of_the_buffer():
    value = {"text": "ü" * 3_000_000, "numbers": [float(number) for number in range(300_000)], "raw": b"x" * 2_000_000}
    for protocol in (2, 4):
        assert read(pickle.dumps(value, protocol=protocol)) == value


def test_consecutive_pickles_are_read_one_at_a_time():
    reader = PlainReader(io.BytesIO(pickle.dumps("first") + pickle.dumps([2])), name="file")
    assert [reader.load(), reader.load()] == ["first", [2]]
    with pytest.raises(FileFormatError, match="truncated"):
        reader.load()


@pytest.mark.parametrize("value", [print, np.zeros(3), 1j, object, collections.Counter("a"), FileFormatError("x")])
@pytest.mark.parametrize("protocol", [2, 4])
def test_anything_that_needs_a_python_object_is_refused(value, protocol):
    with pytest.raises(FileFormatError, match=r"file asks for the Python object \S+\.\S+"):
        read(pickle.dumps(value, protocol=protocol))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"accuracy 94.37",
        b"\x80\x04.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # 2**63 - 1 bytes of nothing
        b"\x80\x02X\xff\xff\xff\xff",
        b"\x80\x02}(K\x01u.",  # a key without a value
        b"\x80\x02}]K\x01s.",  # an unhashable key
        b"\x80\x02X\x01\x00\x00\x00a)R.",  # a call of text
        b"\x80\x02X\x01\x00\x00\x00a}b.",  # a state for text
        b"i__main__\nx\n.",
    ],
)
def test_what_is_no_pickle_of_plain_data_is_refused(data):
    with pytest.raises(FileFormatError, match=r"file is (truncated or )?(is )?not a pickle of plain data|truncated"):
        read(data)


def consume_items(dictionary):
    return dictionary.get("kind") == "item"


def test_consumed_dictionaries_are_emptied_as_they_come():
    seen = []

    def consume(dictionary):
        if consume_items(dictionary):
            seen.append(dictionary["value"])
        return consume_items(dictionary)

    items = {number: {"kind": "item", "value": number / 2} for number in range(2500)}
    assert read(pickle.dumps(items), consume=consume) == {number: {} for number in range(2500)}
    assert seen == [number / 2 for number in range(2500)]


@pytest.mark.parametrize(("distance", "is_dropped"), [(1, False), (GENERATIONS, False), (GENERATIONS + 1, True)])
def test_a_memo_entry_lives_for_its_generations_and_for_good_once_used(distance, is_dropped):
    shared = "a name that two items share"
    items = [{"kind": "item", "value": f"own {number}", "more": [number]} for number in range(30)]
    first = 3
    for number in (first, first + distance, 29):
        items[number]["more"].append(shared)
    found = []

    def consume(dictionary):
        if consume_items(dictionary):
            found.append(dictionary["more"])
        return consume_items(dictionary)

    data = pickle.dumps(items, protocol=2)
    reader = PlainReader(io.BytesIO(data), name="file", consume=consume)
    reader.load()
    assert (found[29][-1] is DROPPED) == is_dropped
    assert len(reader.missing) == is_dropped
    found.clear()
    again = PlainReader(io.BytesIO(data), name="file", consume=consume, keep=frozenset(reader.missing))
    again.load()
    assert again.missing == set()
    assert found[29] == [29, shared]

"""NAS-Bench-201's string, the operation indices and NNI's sample say the same, and errors say where they are."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balenas_plugin.errors import SpaceError
from balenas_plugin.search_spaces import nasbench201
from balenas_plugin.search_spaces.nasbench201 import (
    EDGES,
    OPERATIONS,
    check_indices,
    format_string,
    from_nni,
    parse,
    to_nni,
)

BEST_CIFAR10 = (
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
    (3, 3, 4, 1, 3, 1),
    {
        "cell/0_1": "conv_3x3",
        "cell/0_2": "conv_3x3",
        "cell/1_2": "avg_pool_3x3",
        "cell/0_3": "skip_connect",
        "cell/1_3": "conv_3x3",
        "cell/2_3": "skip_connect",
    },
)
ALL_DIFFERENT = (
    "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|",
    (0, 1, 2, 3, 4, 0),
    {
        "cell/0_1": "none",
        "cell/0_2": "skip_connect",
        "cell/1_2": "conv_1x1",
        "cell/0_3": "conv_3x3",
        "cell/1_3": "avg_pool_3x3",
        "cell/2_3": "none",
    },
)
architectures = st.tuples(*[st.integers(0, 4)] * 6)


@pytest.mark.parametrize(("string", "indices", "sample"), [BEST_CIFAR10, ALL_DIFFERENT])
def test_the_three_forms_of_known_architectures(string, indices, sample):
    assert parse(string) == indices
    assert format_string(indices) == string
    assert to_nni(indices) == sample
    assert from_nni(sample) == indices


@given(architectures)
def test_every_form_round_trips(indices):
    assert parse(format_string(indices)) == indices
    assert from_nni(to_nni(indices)) == indices


@given(architectures, st.permutations(list(to_nni(ALL_DIFFERENT[1]))))
def test_the_order_of_the_sample_is_free(indices, labels):
    sample = to_nni(indices)
    assert from_nni({label: sample[label] for label in labels}) == indices


def test_all_15625_architectures_are_distinct_in_every_form():
    every = list(itertools.product(range(len(OPERATIONS)), repeat=len(EDGES)))
    assert len({format_string(indices) for indices in every}) == 15_625
    assert len({tuple(to_nni(indices).items()) for indices in every}) == 15_625


def test_edges_are_in_the_order_of_the_string():
    assert [str(edge) for edge in EDGES] == ["1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2"]
    assert EDGES[2].target == 2
    assert EDGES[2].source == 1


GOOD = ALL_DIFFERENT[0]


SECOND_EDGE = GOOD.index("nor_conv_1x1")


@pytest.mark.parametrize(
    ("string", "position", "message"),
    [
        (
            GOOD.replace("conv_1x1", "conv1x1"),
            SECOND_EDGE,
            "node 2, edge 2<-1: unknown operation 'nor_conv1x1'; allowed: ",
        ),
        (GOOD.replace("conv_1x1", "conv1x1"), SECOND_EDGE, "did you mean 'nor_conv_1x1'"),
        (GOOD.replace("1x1~1", "1x1~0"), GOOD.index("1x1~1") + 4, "edge 2<-1: source node is '0', it must be '1'"),
        (GOOD.replace("1x1~1", "1x1"), GOOD.index("1x1~1") + 3, "edge 2<-1: expected '~1' after 'nor_conv_1x1'"),
        (GOOD.replace("|nor_conv_1x1~1", ""), GOOD.index("|skip"), "node 2 has 1 edge(s), it needs 2: 2<-0, 2<-1"),
        (GOOD + "|", GOOD.index("|nor_conv_3x3"), "node 3 has 4 edge(s), it needs 3"),
        (GOOD[1:], 0, "node 1 must begin with '|'"),
        (GOOD[:-1], len(GOOD) - 1, "node 3 must end with '|'"),
        (GOOD + "+|none~0|", len(GOOD), "4 node(s) given"),
        (GOOD.rpartition("+")[0], GOOD.rindex("+"), "2 node(s) given"),
        ("", 0, "node 1 must begin"),
        (" " + GOOD, 0, "node 1 must begin"),
    ],
)
def test_a_malformed_string_is_refused_with_its_place(string, position, message):
    with pytest.raises(SpaceError, match=re.escape(message)) as caught:
        parse(string)
    assert f"{string!r}, character {position}: " in str(caught.value)


@given(st.text(alphabet="|+~012 nor_conv3x", max_size=40))
def test_no_text_gets_through_or_raises_anything_else(text):
    try:
        indices = parse(text)
    except SpaceError:
        return
    assert format_string(indices) == text


def test_a_string_must_be_a_string():
    with pytest.raises(SpaceError, match="must be a str, not list"):
        parse(["none"])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ((0, 1, 2), "3 operation indices given"),
        ((0, 1, 2, 5, 0, 0), "edge 3<-0 is 5; allowed: 0 none, 1 skip_connect"),
        ((0, -1, 2, 3, 0, 0), "edge 2<-0 is -1"),
        ((0, 1, 2.0, 3, 0, 0), r"edge 2<-1 is 2\.0"),
        ((True, 1, 2, 3, 0, 0), "edge 1<-0 is True"),
    ],
)
def test_wrong_indices_are_refused(indices, message):
    with pytest.raises(SpaceError, match=message):
        format_string(indices)
    with pytest.raises(SpaceError, match=message):
        to_nni(indices)


def test_integers_of_numpy_become_plain_ones():
    checked = check_indices(np.array([3, 0, 1, 0, 0, 4]))
    assert checked == (3, 0, 1, 0, 0, 4)
    assert all(type(index) is int for index in checked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"cell/1_2": "nor_conv_1x1"},
            r"'cell/1_2' \(edge 2<-1\) is 'nor_conv_1x1'; allowed: .*did you mean 'conv_1x1'",
        ),
        ({"cell/1_4": "none"}, r"unknown label 'cell/1_4'.*did you mean 'cell/"),
    ],
)
def test_a_wrong_sample_is_refused(change, message):
    with pytest.raises(SpaceError, match=message):
        from_nni(ALL_DIFFERENT[2] | change)


def test_an_incomplete_sample_is_refused():
    sample = dict(ALL_DIFFERENT[2])
    del sample["cell/0_3"], sample["cell/0_1"]
    with pytest.raises(SpaceError, match=r"no choice given for cell/0_1, cell/0_3"):
        from_nni(sample)


def test_the_space_is_the_package_of_the_same_name():
    from balenas_plugin import search_spaces

    assert search_spaces.parse is nasbench201.parse

"""NAS-Bench-201's string, the operation indices and NNI's sample say the same, and errors say where they are."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balenas_plugin import search_spaces
from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.search_spaces.nasbench201 import (
    EDGES,
    OPERATIONS,
    check_indices,
    format_string,
    from_naslib,
    from_nni,
    parse,
    read_architecture,
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


@pytest.mark.parametrize(("string", "indices", "architecture"), [BEST_CIFAR10, ALL_DIFFERENT])
def test_the_three_forms_of_known_architectures(string, indices, architecture):
    assert parse(string) == indices
    assert format_string(indices) == string
    assert to_nni(indices) == architecture
    assert from_nni(architecture) == indices


@given(architectures)
def test_every_form_round_trips(indices):
    assert parse(format_string(indices)) == indices
    assert from_nni(to_nni(indices)) == indices


@given(architectures, st.permutations(list(to_nni(ALL_DIFFERENT[1]))))
def test_the_order_of_the_sample_is_free(indices, labels):
    architecture = to_nni(indices)
    assert from_nni({label: architecture[label] for label in labels}) == indices


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
    architecture = dict(ALL_DIFFERENT[2])
    del architecture["cell/0_3"], architecture["cell/0_1"]
    with pytest.raises(SpaceError, match=r"no choice given for cell/0_1, cell/0_3"):
        from_nni(architecture)


# -- whatever notation somebody has -----------------------------------------------------------------------------------

INDICES = (3, 0, 1, 0, 2, 4)
STRING = format_string(INDICES)
GENOTYPE = (  # of the benchmark's own code
    (("nor_conv_3x3", 0),),
    (("none", 0), ("skip_connect", 1)),
    (("none", 0), ("nor_conv_1x1", 1), ("avg_pool_3x3", 2)),
)
READINGS = {
    STRING: "string",
    f'  "{STRING}" ': "string",
    STRING.replace("|", " | ").replace("+", " + ").replace("~", " ~ "): "string",
    STRING.strip("|").replace("|+|", "+"): "string",
    STRING.replace("none~0|skip_connect~1", "skip_connect~1|none~0"): "string",
    STRING.replace("nor_conv", "conv").replace("none", "zero"): "string",
    "3,0,1,0,2,4": "indices",
    "[3, 0, 1, 0, 2, 4]": "indices",
    "(3 0 1 0 2 4)": "indices",
    "301024": "indices",
    str(list(to_nni(INDICES).values())): "indices",
    ", ".join(to_nni(INDICES).values()): "indices",
    " ".join(OPERATIONS[index] for index in INDICES): "indices",
    str(GENOTYPE): "indices",
    json.dumps(to_nni(INDICES)): "nni",
    str(to_nni(INDICES)): "nni",
    json.dumps({"rank": 1, "choices": to_nni(INDICES)}): "nni",
    str(
        {
            label.removeprefix("cell/"): f"nor_{name}" if "conv" in name else name
            for label, name in to_nni(INDICES).items()
        }
    ): "nni",
}


@pytest.mark.parametrize("text", READINGS)
def test_an_architecture_is_read_in_any_notation(text):
    found = read_architecture(text)
    assert found == replace(found, notation=READINGS[text], sample=to_nni(INDICES))


def test_nine_tenths_of_naslibs_indices_mean_another_architecture():
    """NASLib's own function, written here again: edges by source, operations in the order of its classes."""
    names = ["skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3"]
    given = (2, 1, 4, 0, 3, 1)
    chosen = dict(zip(((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)), given, strict=True))
    parts = [f"{names[chosen[edge]]}~{edge[0] - 1}" for edge in sorted(chosen, key=lambda edge: edge[1])]
    wanted = "|{}|+|{}|{}|+|{}|{}|{}|".format(*parts)
    assert format_string(from_naslib(given)) == wanted
    found = read_architecture(str(given), notation="naslib")
    assert (found.notation, from_nni(found.sample), found.remark) == ("naslib", from_naslib(given), "")
    ambiguous = read_architecture(str(given))
    assert from_nni(ambiguous.sample) == given
    assert wanted in ambiguous.remark
    assert "--notation naslib" in ambiguous.remark
    assert read_architecture(str(given), notation="indices").remark == ""


def test_a_number_is_the_benchmarks():
    found = read_architecture("6111")
    assert (found.notation, found.sample, found.index, found.remark) == ("index", None, 6111, "")
    assert read_architecture("15624").index == 15624
    nats = read_architecture("000123")  # as NATS-Bench calls its files
    assert nats.index == 123
    assert "write 0,0,0,1,2,3" in nats.remark


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("15625", "a number from 0 to 15624"),
        ("3,0,1", "3 operation indices given"),
        ("3,0,1,0,2,5", r"edge 3<-2 is 5; allowed: 0 none"),
        ("-1,0,1,0,2,4", "edge 1<-0 is -1"),
        ("9" * 3000, "a number from 0 to 15624"),
        ("9," * 1500, "1500 numbers were given"),
        ("[3, 0, 1, 0, 2, 4, 0]", "7 numbers were given"),
        ("x" * 5000, "none is that long"),
        ("{'cell/0_1': 'conv_3x3'}", "no choice given for cell/0_2"),
        ("{'cell/0_1': 'conv_3x3'", "is no architecture of NAS-Bench-201. Give its string"),
        ("[[[[[[1]]]]]]x", "is no architecture of NAS-Bench-201. Give its string"),
        ("['conv_3x3']", "is no architecture of NAS-Bench-201. Give its string"),
        ("(" * 1500 + ")" * 1500, "is no architecture of NAS-Bench-201. Give its string"),
        ("|none~0|+|none~0|none~1|", "2 node"),
        ("resnet", "Give its string, its index"),
        (STRING.replace("skip_connect", "skip_conect"), "did you mean 'skip_connect'"),
        ("", "Give its string, its index"),
    ],
)
def test_what_is_no_architecture_is_refused(text, message):
    with pytest.raises(SpaceError, match=message):
        read_architecture(text)


def test_a_notation_that_is_none_is_refused():
    with pytest.raises(OptionError, match="did you mean 'naslib'"):
        read_architecture("1", notation="nas-lib")
    with pytest.raises(SpaceError, match="a number from 0 to 15624, got '15625'"):
        read_architecture("15625", notation="index")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "conv5x5~0|maxpool3x3~0,1|conv1x1~1,2|-|output~0,3",
            "block 1 has the operation 'conv5x5'; allowed: maxpool3x3",
        ),
        ("conv3x3~0|conv3x3~2|conv3x3~2|conv3x3~2,3|conv3x3~2,3|output~0,5", r"block 2 has the parents \(2,\)"),
        ("conv3x3~0|conv3x3~0|output~0,1", "space 1. Give its 4 blocks and its output"),
        (
            '{"op_1": "conv9", "op_2": "maxpool3x3", "op_3": "maxpool3x3", "op_4": "maxpool3x3", "input_2": [0], '
            '"input_3": [0, 1], "input_4": [0, 1], "output": [0, 1, 4]}',
            "block 1 has the operation 'conv9'",
        ),
        (
            str(
                {"normal/op_2_0": "sep_conv_9x9", "normal/op_2_1": "none"}
                | dict.fromkeys(("normal/input_2_0", "normal/input_2_1"), 0)
            ),
            "unknown operation 'sep_conv_9x9'",
        ),
        ("(((0, 9), (1, 0)), ((0, 0), (1, 0)))", "normal cell, node 2: unknown operation '9'"),
    ],
)
def test_what_is_malformed_is_answered_by_its_own_space(text, message):
    with pytest.raises(SpaceError, match=message):
        search_spaces.read_architecture(text)

"""`balenas query` and `balenas benchmark import` on tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .commands import balenas, refused

BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def test_query_prints_what_the_table_knows(folder):
    ended = balenas("query", BEST, folder=folder)
    assert ended.code == 0, ended.errors
    assert "94.3633" in ended.output
    assert "of 15625" in ended.output
    only = balenas("query", BEST, "--dataset", "cifar100", folder=folder)
    assert "cifar100" in only.output
    assert "94.3633" not in only.output


def test_output_that_nobody_reads_ends_the_command_quietly(folder):
    """As in `balenas query ARCH | head -1`, where head ends first."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [Path(sys.executable).with_name("balenas"), "query", BEST]
    ended = subprocess.run(command, cwd=folder, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_query_says_where_a_string_is_malformed(folder):
    message = refused("query", BEST.replace("nor_conv_3x3~2", "nor_conv_4x4~2"), folder=folder)
    assert "edge 3<-2" in message
    assert "did you mean 'nor_conv_3x3'" in message
    assert "did you mean 'cifar10'" in refused("query", BEST, "--dataset", "cifar-10", folder=folder)


def test_import_of_something_else(folder):
    (folder / "official.pth").write_bytes(b"not a pickle")
    refused("benchmark", "import", "official.pth", folder=folder)
    assert not (folder / "nb201_full.parquet").exists()

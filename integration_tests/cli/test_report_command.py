"""Diagnostics and reports of searches that the command line has made, and the page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from balenas_plugin.diagnostics import read_log

from .commands import Stop, balenas
from .comparison import RESULTS, assert_same_run

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
LOOK = """<script>
const requested = () => performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:")).length;
const broken = () => [...document.images].filter(image => !image.naturalWidth).length;
const widths = () => [innerWidth, document.documentElement.scrollWidth];
addEventListener("load", () =>
  parent.postMessage([...widths(), document.images.length, broken(), requested()].join(" "), "*"));
</script>"""
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def test_a_search_is_the_same_without_diagnostics(finished: Path, folder: Path) -> None:
    ended = balenas("search", "tiny.yml", "--set", "diagnostics=false", folder=folder)
    assert ended.code == 0, ended.errors
    run = folder / "runs" / "tiny"
    assert not (run / "diagnostics.jsonl").exists()
    for name in set(RESULTS) - {"diagnostics.jsonl"}:
        assert (run / name).read_bytes() == (finished / name).read_bytes(), name


def test_what_a_search_writes(finished: Path) -> None:
    log = read_log(finished / "diagnostics.jsonl")
    assert [record["epoch"] for record in log.records] == [0, 1, 2]
    assert set(log.header["choices"]) == {f"cell/{i}_{j}" for i, j in ("01", "02", "03", "12", "13", "23")}
    first = json.loads((finished / "architectures.json").read_text())[0]
    last = log.records[-1]
    assert last["architecture"] == first["choices"]
    assert last["notation"] == first["notation"]
    for label, chosen in first["choices"].items():
        place = log.header["choices"][label].index(chosen)
        assert last["probabilities"][label][place] == pytest.approx(first["winning_probability"][label], abs=1e-5)


STOPPING = ("--set", "diagnostics={curvature: off, stop_by: entropy, entropy_threshold: 2}")


def test_a_search_killed_after_it_had_decided_to_stop_stays_stopped(folder: Path) -> None:
    whole = balenas("search", "tiny.yml", *STOPPING, "--output", "whole", folder=folder)
    assert whole.code == 0, whole.errors
    assert "stopped early" in whole.errors
    killed = balenas(
        "search", "tiny.yml", *STOPPING, "--output", "torn", folder=folder, stop=Stop("checkpoint in place", count=1)
    )
    assert killed.code < 0
    resumed = balenas("search", "tiny.yml", *STOPPING, "--output", "torn", "--resume", folder=folder)
    assert resumed.code == 0, resumed.errors
    assert len(read_log(folder / "torn" / "diagnostics.jsonl").records) == 1
    assert_same_run(folder / "torn", folder / "whole")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("diagnostics.drawz=3", "did you mean 'draws'"),
        ("diagnostics.curvature=exactly", "did you mean 'exact'"),
        ("diagnostics=often", "mapping of options or true or false"),
        ("diagnostics.stop_by=hessian", "never, eigenvalue, entropy"),
    ],
)
def test_bad_options_give_one_message(override: str, message: str, folder: Path) -> None:
    ended = balenas("search", "tiny.yml", "--set", override, folder=folder)
    assert ended.code == 2
    assert message in ended.errors
    assert len(ended.errors.strip().splitlines()) == 1


def test_report_of_a_real_run(copy_of_finished: Path, folder: Path) -> None:
    ended = balenas("report", copy_of_finished, folder=folder)
    assert ended.code == 0, ended.errors
    page = (copy_of_finished / "report.html").read_text(encoding="utf-8")
    best = json.loads((copy_of_finished / "architectures.json").read_text())[0]["notation"]["nasbench201"]
    assert best in page.replace("<wbr>", "")
    assert "(unseen by the search)" in page
    assert page.count("<img") == 1 + 6 + 6 + 6  # the cell, epochs without curvature, probabilities, logits


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_page_in_a_browser(copy_of_finished: Path, folder: Path) -> None:
    """At two widths: nothing but tables and drawings scrolls sideways, all pictures load, and nothing is requested."""
    assert balenas("report", copy_of_finished, folder=folder).code == 0
    source = (copy_of_finished / "report.html").read_text(encoding="utf-8")
    (folder / "looked.html").write_text(POLICY.sub("", source) + LOOK, encoding="utf-8")
    frames = "".join(f'<iframe src="looked.html" width="{width}" height="900"></iframe>' for width in (390, 1280))
    listen = "<script>addEventListener('message', e => document.body.append(`[${e.data}]`))</script>"
    (folder / "frames.html").write_text(f"<body>{listen}{frames}</body>", encoding="utf-8")
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", (folder / "frames.html").as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    seen = sorted(tuple(map(int, found.split())) for found in re.findall(r"\[([\d ]+)\]", ended.stdout))
    assert [width for width, *_ in seen] == [390, 1280], ended.stderr
    for width, scrolled, pictures, broken, requests in seen:
        assert scrolled <= width
        assert pictures == source.count("<img") > 12
        assert (broken, requests) == (0, 0)

"""Find out whether a search can run here, and name the cure of what is broken.

Nothing that may be broken is imported into this process: versions are read from the packages' metadata, and each import
is tried in a process of its own. The checks are in `checks`, the known breakages in `imports`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TextIO

from balenas_plugin.doctor import checks
from balenas_plugin.doctor.checks import Finding, Surroundings
from balenas_plugin.doctor.imports import BALENAS, LIGHTNING, NASLIB, NNI, NNICTL, TORCH, TORCHVISION
from balenas_plugin.machine import cores

__all__ = ["Finding", "Surroundings", "diagnose", "run_doctor", "table"]

_PROBES = (TORCH, TORCHVISION, LIGHTNING, NNI, BALENAS, NNICTL)
_MARKS = {"ok": "ok", "warning": "warn", "broken": "FAIL"}
_LONGEST_DETAIL = 240  # characters: an error message can be a page


def run_doctor(stream: TextIO | None = None, *, around: Surroundings | None = None) -> int:
    """Check this installation and print a table with the cures, then whether a search can run.

    Args:
        stream: where to print; standard output if None.
        around: where to look; this machine if None.

    Returns:
        The exit status: 0 if a search can run (there may be warnings), 2 if something stops it.
    """
    stream = stream or sys.stdout
    print("Checking the installation; the imports can take a minute.", file=stream, flush=True)
    findings = diagnose(around)
    encoding = stream.encoding or "utf-8"  # an error message may hold letters that this terminal cannot show
    for line in table(findings):
        print(line.encode(encoding, "replace").decode(encoding), file=stream)
    return 2 if any(finding.status == "broken" for finding in findings) else 0


def diagnose(around: Surroundings | None = None) -> list[Finding]:
    """Return what every check finds, in the order in which they are shown; never raise for what is broken."""
    around = around or Surroundings()
    probes = (*_PROBES, NASLIB) if checks.naslib_is_here() else _PROBES
    with ThreadPoolExecutor(max_workers=min(4, cores())) as pool:
        attempts = dict(zip(probes, pool.map(lambda probe: around.run(probe.command), probes), strict=True))
    plan: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", partial(checks.check_python, around)),
        ("version bounds", partial(checks.check_bounds, around)),
        *((name, partial(checks.check_library, name, around)) for name in around.wanted),
        *((probe.check, partial(checks.check_import, probe, attempts[probe], around)) for probe in _PROBES),
        ("NNI manager", partial(checks.check_manager, around)),
        ("NASLib", partial(checks.check_naslib, attempts.get(NASLIB), around)),
        ("GPU", partial(checks.check_gpu, attempts[TORCH])),
        ("CPU", partial(checks.check_cpu, attempts[TORCH])),
        ("disk", partial(checks.check_disk, Path())),
        ("data", checks.check_data),
    ]
    return [_guarded(name, check) for name, check in plan]


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # where anything may be broken, one check that fails must not hide the others
        return Finding(name, "warning", f"cannot be checked: {type(error).__name__}: {error}")


def table(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the lines to print: a row for each finding, its cure indented beneath it, and one sentence at the end."""
    width = max((len(finding.check) for finding in findings), default=0)
    shown: set[str] = set()
    for finding in findings:
        detail = " ".join(finding.detail.split())
        if len(detail) > _LONGEST_DETAIL:
            detail = detail[: _LONGEST_DETAIL - 3] + "..."
        yield f"{_MARKS[finding.status]:<4}  {finding.check:<{width}}  {detail}"
        if finding.cure:
            yield f"{'':<4}    cure: {'as above' if finding.cure in shown else finding.cure}"
            shown.add(finding.cure)
    yield ""
    yield _verdict(findings)


def _verdict(findings: Sequence[Finding]) -> str:
    broken = [finding.check for finding in findings if finding.status == "broken"]
    warnings = [finding.check for finding in findings if finding.status == "warning"]
    if broken:
        return f"No search can run until this is cured: {', '.join(broken)}."
    if warnings:
        return f"A search can run; look at the warnings, though: {', '.join(warnings)}."
    return "A search can run."

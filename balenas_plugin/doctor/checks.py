"""Judge what the doctor looks at: one function a check, from what was found to a `Finding`."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from balenas_plugin.doctor.imports import (
    FIND_MISSING,
    NASLIB,
    NASLIB_EXTRA,
    NASLIB_VARIABLE,
    Attempt,
    Probe,
    explain,
    last_error,
    pip_install,
    run_command,
)
from balenas_plugin.machine import cores

DISTRIBUTION = "balenas-plugin"
DATA_VARIABLE = "BALENAS_DATA"
DATA_FILES = ("cifar10_train_jpeg.parquet", "cifar10_test_jpeg.parquet")
LITTLE_DISK = 1.0  # GiB

_GIB = float(1 << 30)
_ON_CPU = 'or search on the CPU: set CUDA_VISIBLE_DEVICES=""'
_NO_PAGE = "(no web page; searches run without)"
# Libraries that a search can do without, and who needs them.
_OPTIONAL = {
    "setuptools": "nnictl imports pkg_resources from it",
    "pyarrow": "the parquet data sets and tables need it",
    "scikit-learn": "the bundled digits need it",
}


@dataclass(frozen=True)
class Finding:
    """What one check found; `broken` means that it stops a search. `cure` is empty if there is nothing to do."""

    check: str
    status: Literal["ok", "warning", "broken"]
    detail: str
    cure: str = ""


@dataclass(frozen=True)
class Declared:
    """What this package's metadata asks for: Python versions, and the bounds (for example ``<81``) by library."""

    python: str
    libraries: Mapping[str, str]


def read_declared() -> Declared | None:
    """Return what this package's metadata asks for, or None if it is not installed."""
    try:
        about = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    # A semicolon makes a requirement part of an extra.
    plain = [line for line in about.get_all("Requires-Dist") or [] if ";" not in line]
    split = [re.match(r"([\w.-]+)\s*(.*)", line) for line in plain]
    libraries = {match[1]: _lower_bound_first(match[2]) for match in split if match}
    return Declared(_lower_bound_first(about["Requires-Python"] or ""), libraries)


def _lower_bound_first(bounds: str) -> str:
    return ",".join(sorted(bounds.split(","), reverse=True))


def find_node_folder() -> Path | None:
    """Return the folder of NNI's manager (`nni_node`, beside `nni`), or None."""
    spec = importlib.util.find_spec("nni_node")
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where the doctor looks: this machine, unless a test says otherwise."""

    run: Callable[[Sequence[str]], Attempt] = run_command
    version: Callable[[str], str] = metadata.version
    python: str = field(default_factory=platform.python_version)
    declared: Declared | None = field(default_factory=read_declared)
    node_folder: Path | None = field(default_factory=find_node_folder)

    @property
    def wanted(self) -> Mapping[str, str]:
        """The declared bounds by library; empty if they are not known."""
        return self.declared.libraries if self.declared else {}


def check_python(around: Surroundings) -> Finding:
    """Compare the version of Python with what this package asks for."""
    bounds = around.declared.python if around.declared else ""
    if _within(around.python, bounds) is False:
        return Finding("Python", "broken", f"{around.python} is not supported", f"use a Python {bounds}")
    return Finding("Python", "ok", f"{around.python}, {sys.executable}")


def check_bounds(around: Surroundings) -> Finding:
    """Say whether versions can be compared at all."""
    if around.declared is None:
        detail = f"{DISTRIBUTION} is not installed (a bare checkout?), so the versions that it needs are unknown"
        return Finding("version bounds", "warning", detail, "pip install .  # in the checkout")
    if _within("1", "") is None:
        detail = "the library `packaging` is missing: versions are shown, not compared"
        return Finding("version bounds", "warning", detail, "pip install packaging")
    return Finding("version bounds", "ok", f"those that {DISTRIBUTION} declares")


def check_library(name: str, around: Surroundings) -> Finding:
    """Compare the installed version of `name` with the bounds that this package declares."""
    bounds, use = around.wanted[name], _OPTIONAL.get(name)
    need, cure = f" ({use})" if use else "", pip_install([name], around.wanted)
    try:
        version = around.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "warning" if use else "broken", f"not installed{need}", cure)
    if not version:  # what an interrupted installation leaves
        return Finding(name, "warning", "its metadata is damaged", pip_install([name], around.wanted, reinstall=True))
    if _within(version, bounds) is False:
        return Finding(name, "warning", f"{version} is outside the tested {bounds}{need}", cure)
    return Finding(name, "ok", version)


def _within(version: str, bounds: str) -> bool | None:
    """Return whether `version` is inside `bounds`, or None if the library that compares them is missing."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return None
    return SpecifierSet(bounds).contains(version, prereleases=True)


def check_import(probe: Probe, attempt: Attempt, around: Surroundings) -> Finding:
    """Say whether the imports of `probe` worked, and if not, which known breakage it is."""
    if attempt.worked:
        return Finding(probe.check, "ok", attempt.report.get("version", "imported"))
    why = explain(attempt, again=probe.again, wanted=around.wanted)
    return Finding(probe.check, "broken" if probe.essential else "warning", why.detail, why.cure)


def check_manager(around: Surroundings) -> Finding:
    """Say whether NNI's manager can start. Only its web page needs it, so it never stops a search."""
    cure = pip_install(["nni"], around.wanted, reinstall=True) + " --no-deps"
    folder = around.node_folder
    if folder is None:
        return Finding("NNI manager", "warning", f"there is no folder nni_node beside nni {_NO_PAGE}", cure)
    node = folder / ("node.exe" if sys.platform == "win32" else "node")
    for file in (node, folder / "main.js"):
        if not file.is_file():
            return Finding("NNI manager", "warning", f"{file} is missing {_NO_PAGE}", cure)
    if not os.access(node, os.X_OK):
        return Finding("NNI manager", "warning", f"{node} is not executable {_NO_PAGE}", f'chmod +x "{node}"')
    attempt = around.run([str(node), "--version"])
    if not attempt.worked:
        reason = last_error(attempt.stderr) or f"status {attempt.code}"
        return Finding("NNI manager", "warning", f"{node} does not run: {reason} {_NO_PAGE}", cure)
    return Finding("NNI manager", "ok", f"node {attempt.stdout.strip()}")


def check_gpu(attempt: Attempt) -> Finding:
    """Name the devices that torch can compute on. A GPU that torch sees and cannot use stops a search."""
    found = attempt.report
    if not found:
        return Finding("GPU", "warning", "unknown, as torch cannot be imported")
    built = f"torch is built for {found['built_for']}"
    if found["error"]:
        return Finding("GPU", "broken", f"{found['error']} ({built})", f"install a torch built for this GPU, {_ON_CPU}")
    if found["said"]:
        return Finding("GPU", "warning", f"{found['said'][0]} ({built})", f"update the driver or torch, {_ON_CPU}")
    devices = [f"{name}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free" for name, free, total in found["devices"]]
    if not devices and found["mps"]:
        devices = ["Apple MPS"]
    return Finding("GPU", "ok", "; ".join(devices) or f"CPU: torch finds no GPU ({built})")


def check_cpu(attempt: Attempt) -> Finding:
    """Count the cores that this process may use and the threads that torch takes."""
    threads = attempt.report.get("threads", "an unknown number of")
    return Finding("CPU", "ok", f"{cores()} cores, {threads} threads of torch")


def naslib_is_here() -> bool:
    """Return whether there is a NASLib to try: the environment names one, or Python finds one."""
    return bool(os.environ.get(NASLIB_VARIABLE)) or importlib.util.find_spec("naslib") is not None


def check_naslib(attempt: Attempt | None, around: Surroundings) -> Finding:
    """Say whether NASLib, which is optional, can be imported."""
    if attempt is None:
        return Finding(
            "NASLib", "ok", f"absent (optional: docs/naslib.md says how to get it; {NASLIB_VARIABLE} is not set)"
        )
    place = os.environ.get(NASLIB_VARIABLE)
    if place and not (Path(place).expanduser() / "naslib").is_dir():
        cure = f"set {NASLIB_VARIABLE} to the root of the clone, the folder that holds naslib/"
        return Finding("NASLib", "warning", f"there is no folder naslib in {place}", cure)
    finding = check_import(NASLIB, attempt, around)
    if finding.cure == FIND_MISSING:  # pip cannot know: NASLib is not installed but found on a path
        return replace(finding, cure=NASLIB_EXTRA)
    return finding


def check_data() -> Finding:
    """Say which of the optional data files are in the folder that the environment names."""
    given = os.environ.get(DATA_VARIABLE)
    if not given:
        return Finding("data", "ok", f"{DATA_VARIABLE} is not set (optional; the bundled digits need no files)")
    folder = Path(given).expanduser()
    if not folder.is_dir():
        return Finding("data", "warning", f"{folder} is no folder", f"set {DATA_VARIABLE} to the folder of the data")
    present = [name for name in DATA_FILES if (folder / name).is_file()]
    absent = [name for name in DATA_FILES if name not in present]
    return Finding("data", "ok", f"{folder}: {', '.join(present) or 'none'} (absent: {', '.join(absent) or 'none'})")


def check_disk(folder: Path) -> Finding:
    """Measure the free space where a search started here would write, in GiB."""
    free = shutil.disk_usage(folder).free / _GIB
    if free < LITTLE_DISK:
        return Finding("disk", "warning", f"{free:.2f} GiB free here", "free some space before a long search")
    return Finding("disk", "ok", f"{free:.1f} GiB free here")

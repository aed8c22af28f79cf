"""Try imports in processes of their own, and recognise the known breakages by the text that they leave.

Only the standard library is imported here, so that this still works where torch or NNI do not.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TIMEOUT = 300.0  # seconds; a first import of torch from a network file system takes minutes
NASLIB_VARIABLE = "BALENAS_NASLIB_PATH"
NASLIB_EXTRA = "pip install '.[naslib]' in a checkout of this project"  # what NASLib needs; it is no package itself

FIND_MISSING = "pip check  # it names what is missing: install that"

_REPORT_MARK = "BALENAS-REPORT "
_ERROR_LINE = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b")
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")
_IMPORTED_AS = {"sklearn": "scikit-learn", "yaml": "pyyaml", "pytorch_lightning": "pytorch-lightning"}


@dataclass(frozen=True)
class Attempt:
    """What a command left: its exit status (None: stopped after `TIMEOUT`) and all that it printed."""

    code: int | None
    stdout: str = ""
    stderr: str = ""

    @property
    def worked(self) -> bool:
        """Whether the command ended with status 0."""
        return self.code == 0

    @property
    def report(self) -> dict[str, Any]:
        """What a probe reported (empty if it did not get so far), whatever the imports printed besides."""
        marked = [line for line in self.stdout.splitlines() if line.startswith(_REPORT_MARK)]
        return json.loads(marked[-1].removeprefix(_REPORT_MARK)) if marked else {}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """An import to try: the statement that a user can repeat, what follows it, and what to report."""

    check: str
    statement: str
    after: str = ""
    report: str = "{}"  # a dict expression
    essential: bool = True  # no search without it

    @property
    def command(self) -> list[str]:
        """The command that tries it, with the Python that runs this one."""
        report = f"import json; print({chr(10) + _REPORT_MARK!r} + json.dumps({self.report}))"
        return [sys.executable, "-W", "ignore", "-c", "\n".join([self.statement, self.after, report])]

    @property
    def again(self) -> str:
        """What a user types to see the whole error."""
        return f'python -c "{self.statement}"'


# A kernel is run on every device: a GPU that the wheel was not built for is "available" all the same.
_LOOK_AT_DEVICES = """
import warnings
built_for = [f"{kind} {v}" for kind, v in [("CUDA", torch.version.cuda), ("ROCm", torch.version.hip)] if v]
found = dict(version=torch.__version__, built_for="".join(built_for) or "the CPU only", devices=[], error="")
found.update(threads=torch.get_num_threads(), mps=torch.backends.mps.is_available())
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    try:
        for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            torch.ones(2, device=f"cuda:{i}").sum().item()
            found["devices"].append([torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)])
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
found["said"] = [str(w.message) for w in said if "no NVIDIA driver" not in str(w.message)]
"""
_RAISE_IF_PLACEHOLDER = """
if DARTS.__name__ == "ImportFailedStrategy":
    import nni.nas.strategy.oneshot as placeholders
    raise ImportError(f"DARTS is an ImportFailedStrategy: {getattr(placeholders, '_import_err', None)!r}")
"""

TORCH = Probe(check="import torch", statement="import torch", after=_LOOK_AT_DEVICES, report="found")
TORCHVISION = Probe(
    check="import torchvision", statement="import torchvision", report="dict(version=torchvision.__version__)"
)
LIGHTNING = Probe(
    check="import lightning",
    statement="import pytorch_lightning",
    report="dict(version=pytorch_lightning.__version__)",
)
NNI = Probe(
    check="NNI's strategies",
    statement="import nni.nas.strategy, nni.nas.hub.pytorch; from nni.nas.strategy import DARTS",
    after=_RAISE_IF_PLACEHOLDER,
)
BALENAS = Probe(check="BaLeNAS for NNI", statement="from balenas_plugin import BaLeNAS")
NNICTL = Probe(check="nnictl", statement="import nni.tools.nnictl.nnictl", essential=False)
NASLIB = Probe(
    check="NASLib",
    statement="from balenas_plugin.naslib import BaLeNASOptimizer",
    after="import naslib, naslib.__version__ as about, pathlib",
    report="dict(version=f'{about.__version__} in {pathlib.Path(naslib.__file__).parents[1]}')",
    essential=False,
)


@dataclass(frozen=True, kw_only=True)
class Breakage:
    """A breakage that has happened to others: the text that gives it away, what it means and what cures it.

    `packages` are installed by the cure, with the bounds that this package declares; `advice` is (more) cure in words.
    """

    sign: str
    meaning: str
    packages: tuple[str, ...] = ()
    reinstall: bool = False
    advice: str = ""


@dataclass(frozen=True)
class Explanation:
    """One line on what is wrong, and what to do about it."""

    detail: str
    cure: str


# The most fundamental first: one cause makes several imports fail, and all of them should name it.
KNOWN = (
    Breakage(
        sign=r"operator torchvision::\w+ does not exist"
        r"|PyTorch and torchvision were compiled with different CUDA"
        r"|partially initialized module 'torchvision'",
        meaning="torchvision is built for another torch (a CUDA wheel beside a CPU-only torch?); torchmetrics and "
        "pytorch-lightning fail with it",
        # Reinstalled without the other two, torch pulls in the newest setuptools and filelock, which break nnictl and
        # the bounds of NNI (seen in pip's plan); with all four named, pip keeps the bounds.
        packages=("torch", "torchvision", "setuptools", "nni"),
        reinstall=True,
        advice="# torch and torchvision from the same place: an --index-url for both or for neither",
    ),
    Breakage(
        sign=r"No module named 'pytorch_lightning'",
        meaning="pytorch-lightning is not installed, and importing nni.nas needs it",
        packages=("pytorch-lightning",),
    ),
    Breakage(
        sign=r"No module named 'pkg_resources'",
        meaning="nnictl imports pkg_resources, which setuptools no longer brings",
        packages=("setuptools",),
    ),
    Breakage(
        sign=r"ImportFailedStrategy",
        meaning="NNI left placeholders in the place of DARTS and its other one-shot strategies",
        packages=("nni", "torch", "torchvision", "pytorch-lightning", "setuptools"),
        advice="# installs what is missing or out of bounds; if nothing is, add --force-reinstall",
    ),
)


def run_command(command: Sequence[str]) -> Attempt:
    """Run `command` without a shell, its output captured, for at most `TIMEOUT` seconds; never raise."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Attempt(None)
    except OSError as error:  # not executable, or built for another machine
        return Attempt(126, stderr=f"{type(error).__name__}: {error}")
    return Attempt(done.returncode, done.stdout, done.stderr)


def pip_install(names: Sequence[str], wanted: Mapping[str, str], *, reinstall: bool = False) -> str:
    """Return the pip command that installs `names` with the bounds of `wanted` (name -> for example ``<81``)."""
    requirements = (f'"{name}{wanted[name]}"' if wanted.get(name) else name for name in names)
    return " ".join(["pip install", *(["--force-reinstall"] if reinstall else []), *requirements])


def explain(attempt: Attempt, *, again: str, wanted: Mapping[str, str]) -> Explanation:
    """Return what made `attempt` fail and its cure.

    Args:
        attempt: a command that did not work.
        again: the command that a user types to see the whole of it.
        wanted: the bounds that this package declares, by distribution name.
    """
    see_it = f"see it in full: {again}"
    if attempt.code is None:
        return Explanation(f"did not end within {TIMEOUT:.0f} s", f"{see_it}; if it is only slow, try again")
    if attempt.code < 0:
        return _crash(-attempt.code, see_it)
    last = last_error(attempt.stderr)
    for text in (last, attempt.stderr):
        for breakage in KNOWN:
            if re.search(breakage.sign, text):
                line = pip_install(breakage.packages, wanted, reinstall=breakage.reinstall)
                cure = "  ".join(filter(None, [line if breakage.packages else "", breakage.advice]))
                return Explanation(f"{breakage.meaning} [{last}]", cure)
        if missing := _NO_MODULE.search(text):
            return _missing_module(missing[1], wanted)
    return Explanation(last or f"ended with status {attempt.code}", see_it)


def last_error(stderr: str) -> str:
    """Return the line of a traceback that names the error, or else the last line, or an empty string."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or [""])[-1]


def _missing_module(module: str, wanted: Mapping[str, str]) -> Explanation:
    top = module.split(".")[0]
    package = _IMPORTED_AS.get(top, top)
    if package not in wanted:
        return Explanation(f"there is no module {module!r}", FIND_MISSING)
    if module == top:
        return Explanation(f"{package} is not installed", pip_install([package], wanted))
    return Explanation(
        f"{package} has no module {module!r}: another version, or a file or folder named {top} hides it",
        pip_install([package], wanted, reinstall=True),
    )


def _crash(number: int, see_it: str) -> Explanation:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    advice = {
        "SIGKILL": "probably out of memory: close other programs; ",
        "SIGILL": "the processor lacks an instruction that a wheel uses: install a wheel built for it; ",
    }
    return Explanation(f"crashed with {name}", advice.get(name, "") + see_it)

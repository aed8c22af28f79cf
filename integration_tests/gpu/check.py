"""Measure everything on a GPU in at most six minutes: the GPU tests, then an iteration of each kind of search.

    python integration_tests/gpu/check.py                       on this machine's GPU; writes gpu_check.json and .md
    python integration_tests/gpu/check.py --output results      into a folder
    python integration_tests/gpu/check.py --only "M=3"          the parts whose names hold one of these texts
    python integration_tests/gpu/check.py --device cpu --tiny   try the script itself, on a CPU

At the paper's setting (NAS-Bench-201 with C 16 and N 5, batches of 64 images of 32x32): BaLeNAS with M = 1 and 3,
fused or not, in float32 and bf16-mixed, compiled and in CUDA graphs, beside NNI's DARTS; both in the DARTS space too,
which has depthwise convolutions; the median of ten iterations each, the peak memory, and what a search of 50 epochs
would take. Every part has a time limit of its own; one that fails or takes too long is named in the table, and the
others go on. Files are written anew after each part.

exit codes: 0 all measured, 1 a part failed or found no time, 2 nothing can be measured here
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
BASELINE = "NNI DARTS"
MINUTES = 6.0
EPOCHS, HALF = 50, 25_000  # of CIFAR-10's training images, half for the weights and half for the architecture
PAPER = {"channels": 16, "cells": 5, "batch_size": 64, "image_size": 32, "iterations": 10}
TINY = {"channels": 2, "cells": 1, "batch_size": 4, "image_size": 8, "iterations": 1}
START_LIMIT = 150.0  # seconds for importing torch and NNI
_RESULT = "balenas-gpu-check: "  # how the worker's answers begin, among what libraries print


@dataclass
class Part:
    """One row of the table: what is searched how, how long that may take, and what came out."""

    name: str
    precision: str = "32-true"
    options: dict[str, Any] | None = None  # of BaLeNAS; None is NNI's DARTS
    space: str = "NasBench201"
    limit: float = 40.0  # seconds
    seconds: list[float] = field(default_factory=list)  # of each iteration
    peak_mebibytes: float | None = None
    problem: str | None = "not run"

    @property
    def milliseconds(self) -> float | None:
        return 1000 * statistics.median(self.seconds) if self.seconds else None


def all_parts() -> list[Part]:
    """Return what is measured, what matters most first: if time runs out, it is for compiling."""
    precisions = ("32-true", "bf16-mixed")
    as_nni = {"fused": False, "channels_last": False}
    compiled = {"compiled": {"compile": True}, "CUDA graphs": {"compile": "reduce-overhead"}}
    parts = [Part(BASELINE, precision) for precision in precisions]
    for name, options in ((BASELINE, None), ("BaLeNAS M=1", {"num_mc_samples": 1})):  # with depthwise convolutions
        parts.append(Part(f"{name}, DARTS space", precisions[0], options, space="DARTS"))
    for draws in (1, 3):
        options = {"num_mc_samples": draws}
        parts += [Part(f"BaLeNAS M={draws}", precision, options) for precision in precisions]
        parts += [Part(f"BaLeNAS M={draws}, not fused", precision, options | as_nni) for precision in precisions]
    for how, option in reversed(compiled.items()):
        for precision in precisions:
            for draws in (1, 3):
                parts.append(Part(f"BaLeNAS M={draws}, {how}", precision, {"num_mc_samples": draws, **option}, 100.0))
    return parts


def gpu_test_files() -> list[Path]:
    """Return the test files in which something is marked as needing a GPU."""
    return [path for path in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]


# -- in a process of its own ------------------------------------------------------------------------------------------


def work() -> None:
    """Answer each line of the standard input, a part in JSON, by a line with what it took."""
    sys.path.insert(0, str(TESTS / "benchmarks"))
    import iteration_cost
    import torch
    from measuring import PeakMemory, machine

    _answer({"machine": machine()})
    for line in sys.stdin:
        task = json.loads(line)
        options = argparse.Namespace(**task["sizes"], device=task["device"], precision=task["precision"])
        options.space = task["space"]
        made = task["options"]
        make = iteration_cost.CANDIDATES[BASELINE] if made is None else iteration_cost.balenas(**made)
        torch.compiler.reset()
        if options.device == "cuda":
            torch.cuda.empty_cache()
        peak = PeakMemory()
        try:
            with peak.watched(options.device):
                seconds = iteration_cost.search(make(), options, iteration_cost.WARM_UP + options.iterations + 1)
        except Exception as error:
            ends = options.device == "cuda"  # an error of CUDA leaves nothing that works
            _answer({"problem": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", "ends": ends})
            if ends:
                return
            continue
        _answer({"seconds": seconds, "peak_mebibytes": peak.mebibytes})


def _answer(record: dict[str, Any]) -> None:
    print(_RESULT + json.dumps(record), flush=True)


class Worker:
    """A process that measures one part after the other, so that torch and NNI are imported once; it can be replaced."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._process = start([sys.executable, __file__, "--worker"], stdin=subprocess.PIPE, stderr=self._errors)
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, task: dict[str, Any]) -> None:
        """Send a part."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended, which `answer` says
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()

    def answer(self, limit: float) -> dict[str, Any]:
        """Return the next answer, or the problem there is."""
        try:
            found = self._answers.get(timeout=max(limit, 0.0))
        except queue.Empty:
            return {"problem": f"took longer than {limit:.0f} s"}
        return {"problem": self._last_words()} if found is None else found

    def end(self) -> None:
        """End the process and all that it has started."""
        stop(self._process)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_RESULT):
                self._answers.put(json.loads(line.removeprefix(_RESULT)))
        self._answers.put(None)

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"ended with {code}: {said[-1] if said else 'no message'}"


def start(command: Sequence[str], **streams: Any) -> subprocess.Popen[str]:
    """Start a command in a session of its own, in which this checkout is imported."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment, cwd=ROOT, **streams
    )


def stop(process: subprocess.Popen[str]) -> None:
    """Kill a process that `start` has started, with its children."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# -- the whole check --------------------------------------------------------------------------------------------------


class Check:
    """All parts, and the files that mention them.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sizes = TINY if options.tiny else PAPER
        self.parts = [part for part in all_parts() if wanted(f"{part.name}, {part.precision}", options.only)]
        self.tests: dict[str, Any] = {"summary": None, "problem": "not run"}
        self.machine: dict[str, Any] = {}
        self._began = time.monotonic()
        self._worker: Worker | None = None

    def run(self) -> int:
        """Measure; return the exit code."""
        try:
            found = self._started().answer(START_LIMIT)
            if "machine" not in found:
                print(f"torch, NNI or balenas_plugin cannot be imported here: {found['problem']}", file=sys.stderr)
                return 2
            self.machine = found["machine"]
            if self.options.device == "cuda" and self.machine["gpu"] is None:
                print(f"torch finds no GPU here. To try the script: {Path(__file__).name} --device cpu --tiny")
                return 2
            if wanted("GPU tests", self.options.only):
                self._report("GPU tests")
                self._run_tests()
                self._write()
            for part in self.parts:
                self._measure(part)
                self._write()
        finally:
            if self._worker is not None:
                self._worker.end()
        print(f"written to {self._file('json')} and {self._file('md')}")
        ran = [part.problem for part in self.parts] + [self.tests["problem"]] * wanted("GPU tests", self.options.only)
        return int(any(problem is not None for problem in ran))

    def _started(self) -> Worker:
        self._worker = Worker()
        return self._worker

    def _left(self) -> float:
        return 60 * self.options.minutes - (time.monotonic() - self._began)

    def _report(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:4.0f} s] {text}", flush=True)

    def _run_tests(self) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *map(str, gpu_test_files())]
        process = start(command, stderr=subprocess.STDOUT)
        try:
            output, _ = process.communicate(timeout=min(self.options.test_limit, self._left()))
        except subprocess.TimeoutExpired:
            self.tests = {"summary": None, "problem": f"took longer than {self.options.test_limit:.0f} s"}
        else:
            lines = output.strip().splitlines() or ["no output"]
            failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
            problem = None if process.returncode in (0, 5) else "; ".join(failed) or lines[-1]  # 5: nothing to run
            self.tests = {"summary": lines[-1].strip("= "), "problem": problem}
        finally:
            stop(process)
        self._report(f"  {self.tests['problem'] or self.tests['summary']}")

    def _measure(self, part: Part) -> None:
        self._report(f"{part.name}, {part.precision}")
        found = self._answer_to(part)
        part.problem = found.get("problem")
        if part.problem is None:
            part.seconds, part.peak_mebibytes = found["seconds"], found["peak_mebibytes"]
        elif self._worker is not None and found.get("ends", True):  # the next part gets a new process
            self._worker.end()
            self._worker = None
        self._report(f"  {part.problem or f'{part.milliseconds:.1f} ms an iteration'}")

    def _answer_to(self, part: Part) -> dict[str, Any]:
        if self._left() <= 0:
            return {"problem": f"the {self.options.minutes:g} minutes were over", "ends": False}
        if self._worker is None:
            found = self._started().answer(min(START_LIMIT, self._left()))
            if "problem" in found:
                return found
        assert self._worker is not None
        given = {"device": self.options.device, "space": part.space, "precision": part.precision}
        self._worker.ask({"sizes": self.sizes, **given, "options": part.options})
        return self._worker.answer(min(part.limit, self._left()))

    # -- files --------------------------------------------------------------------------------------------------------

    def _file(self, ending: str) -> Path:
        return self.options.output / f"gpu_check.{ending}"

    def _write(self) -> None:
        self.options.output.mkdir(parents=True, exist_ok=True)
        rows = [{**asdict(part), "milliseconds": part.milliseconds, "hours": self.hours(part)} for part in self.parts]
        what = {"machine": self.machine, "device": self.options.device, "sizes": self.sizes}
        record = {**what, "tests": self.tests, "parts": rows}
        self._file("json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        self._file("md").write_text(self.markdown(), encoding="utf-8")

    def hours(self, part: Part) -> float | None:
        """Return the hours of a search of 50 epochs on CIFAR-10's halves, without its validations."""
        iterations = EPOCHS * -(-HALF // self.sizes["batch_size"])
        return None if part.milliseconds is None else iterations * part.milliseconds / 3.6e6

    def markdown(self) -> str:
        """Return the tests and the table; ratios are to NNI's DARTS in the same precision."""
        machine, sizes = self.machine, self.sizes
        lines = [
            f"{machine['gpu'] or machine['processor']}, torch {machine['torch']}, Python {machine['python']}. "
            f"NAS-Bench-201, C {sizes['channels']}, N {sizes['cells']}, batch {sizes['batch_size']}, "
            f"{sizes['image_size']}x{sizes['image_size']}; medians of {sizes['iterations']} iterations.",
            "",
            f"GPU tests: {self.tests['problem'] or self.tests['summary']}",
            "",
            "| search | precision | ms an iteration | to DARTS | peak MiB | to DARTS | hours for 50 epochs |",
            "|---|---|---|---|---|---|---|",
        ]
        baselines = {(part.space, part.precision): part for part in self.parts if part.name.startswith(BASELINE)}
        for part in self.parts:
            if part.problem is not None:
                numbers: Iterable[str] = (part.problem.replace("|", "/"), "", "", "", "")
            else:
                base = baselines.get((part.space, part.precision))
                numbers = (
                    _number(part.milliseconds, ".1f"),
                    _ratio(part.milliseconds, base and base.milliseconds),
                    _number(part.peak_mebibytes, ".0f"),
                    _ratio(part.peak_mebibytes, base and base.peak_mebibytes),
                    _number(self.hours(part), ".2f"),
                )
            lines.append(f"| {' | '.join((part.name, part.precision, *numbers))} |")
        return "\n".join(lines) + "\n"


def wanted(name: str, only: Sequence[str]) -> bool:
    return not only or any(text in name for text in only)


def _number(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}" if value and base else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a network and batches of the smallest size, one iteration")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help='of names, e.g. "GPU tests" "M=1" bf16')
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="DIR", help="where to write (the current folder)"
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for everything together ({MINUTES:g})")
    parser.add_argument("--test-limit", type=float, default=75.0, metavar="S", help="seconds for the GPU tests (75)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        work()
        return 0
    missing = [name for name in ("torch", "pytorch_lightning", "nni") if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"check.py needs {' and '.join(missing)}, not installed for {sys.executable}. In this checkout: pip "
            "install . (where there is no network, pip install the wheel of nni 3.0 and of what it needs)",
            file=sys.stderr,
        )
        return 2
    options.output = options.output.absolute()
    return Check(options).run()


if __name__ == "__main__":
    sys.exit(main())

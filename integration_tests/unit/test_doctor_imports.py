"""The doctor's processes: what is imported in them, and how their ends are read."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from balenas_plugin.doctor import imports as doctor_imports
from balenas_plugin.doctor.imports import LIGHTNING, NNI, TORCH, Attempt, explain, last_error, run_command

from .doctor_texts import LIBRARIES, NO_LIGHTNING, NO_PKG_RESOURCES, REINSTALL_PAIR, failed


def test_last_line_decides_before_what_was_handled_on_the_way():
    chained = (
        NO_PKG_RESOURCES + "\nDuring handling of the above exception, another exception occurred:\n\n" + NO_LIGHTNING
    )
    assert explain(failed(chained), again="x", wanted=LIBRARIES).cure == 'pip install "pytorch-lightning>=2.6,<2.7"'


def test_last_error_of_a_message_with_several_lines():
    assert last_error("Traceback\nValueError: first\n\n  more of it\n") == "ValueError: first"
    assert last_error("node: GLIBC_2.28 not found\n") == "node: GLIBC_2.28 not found"
    assert last_error("") == ""


def test_run_command_never_raises(tmp_path, monkeypatch):
    assert run_command([str(tmp_path / "absent")]).stderr.startswith("FileNotFoundError")
    assert run_command([sys.executable, "-c", "print('é'); raise SystemExit(3)"]).code == 3
    monkeypatch.setattr(doctor_imports, "TIMEOUT", 0.2)
    assert run_command([sys.executable, "-c", "import time; time.sleep(60)"]) == Attempt(None)


def test_real_import_through_a_torchvision_that_does_not_match(tmp_path, monkeypatch):
    fake = tmp_path / "torchvision"
    fake.mkdir()
    (fake / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    attempt = run_command(LIGHTNING.command)
    assert not attempt.worked
    assert explain(attempt, again=LIGHTNING.again, wanted=LIBRARIES).cure.startswith(REINSTALL_PAIR)


def test_real_placeholder_is_found():
    hidden = "import sys; sys.modules['nni.nas.oneshot.pytorch.strategy'] = None"
    attempt = run_command(replace(NNI, statement=f"{hidden}; {NNI.statement}").command)
    assert not attempt.worked
    assert "placeholders in the place of DARTS" in explain(attempt, again="", wanted=LIBRARIES).detail


DOCTOR = """
import sys
from balenas_plugin.doctor import Surroundings, run_doctor
from balenas_plugin.doctor.imports import BALENAS, NNICTL, TORCH, Attempt, run_command

def run(command):  # what BALENAS imports is not imported alone as well
    really = command[1:] == ["--version"] or any(command == probe.command for probe in (TORCH, NNICTL, BALENAS))
    return run_command(command) if really else Attempt(0, stdout='\\nBALENAS-REPORT {"version": "imported"}')

code = run_doctor(around=Surroundings(run=run))
print("imported here:", sorted({"torch", "torchvision", "nni", "pytorch_lightning"} & set(sys.modules)))
sys.exit(code)
"""


def test_real_doctor_here():
    done = subprocess.run([sys.executable, "-c", DOCTOR], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "FAIL" not in done.stdout
    assert "A search can run" in done.stdout
    assert done.stdout.rstrip().endswith("imported here: []")
    assert [line.split()[0] for line in done.stdout.splitlines() if " BaLeNAS for NNI " in line] == ["ok"]


FAKE_TORCH = """
import types, warnings
__version__ = "2.15.0+cu132"
version = types.SimpleNamespace(cuda="13.2", hip=None)
backends = types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: False))
get_num_threads = lambda: 8
class ones:
    def __init__(self, n, device):
        warnings.warn("this GPU is newer than this torch")
        if device == "cuda:1":
            raise RuntimeError("no kernel image is available")
    def sum(self):
        return self
    def item(self):
        return 2.0
cuda = types.SimpleNamespace(
    is_available=lambda: True, device_count=lambda: COUNT,
    get_device_name=lambda i: f"GPU {i}", mem_get_info=lambda i: (1 << 30, 2 << 30))
"""


@pytest.mark.parametrize("count", [1, 2])
def test_devices_are_tried_not_only_counted(tmp_path, monkeypatch, count):
    (tmp_path / "torch.py").write_text(FAKE_TORCH.replace("COUNT", str(count)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    report = run_command(TORCH.command).report
    assert report["devices"] == [["GPU 0", 1 << 30, 2 << 30]]
    assert report["said"][0] == "this GPU is newer than this torch"
    assert report["error"] == ("RuntimeError: no kernel image is available" if count == 2 else "")
    assert (report["threads"], report["built_for"]) == (8, "CUDA 13.2")

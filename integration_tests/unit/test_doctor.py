"""The doctor: every breakage that it should recognise, with the texts that the real ones leave."""

from __future__ import annotations

import importlib.util
import io
import sys
from dataclasses import replace
from email.message import Message
from importlib import metadata

import pytest

from balenas_plugin.doctor import Finding, Surroundings, diagnose, run_doctor, table
from balenas_plugin.doctor import checks as doctor_checks
from balenas_plugin.doctor.checks import DATA_FILES, DATA_VARIABLE, Declared, check_data, check_disk, read_declared
from balenas_plugin.doctor.imports import (
    BALENAS,
    LIGHTNING,
    NASLIB,
    NASLIB_EXTRA,
    NASLIB_VARIABLE,
    NNI,
    NNICTL,
    TORCH,
    TORCHVISION,
    Attempt,
)

from .doctor_texts import (
    INSTALLED,
    LIBRARIES,
    NMS,
    NO_LIGHTNING,
    NO_PKG_RESOURCES,
    OTHER_CUDA,
    PLACEHOLDER,
    REINSTALL_PAIR,
    TORCH_REPORT,
    failed,
    missing,
    reported,
)


@pytest.fixture
def node_folder(tmp_path):
    folder = tmp_path / "nni_node"
    folder.mkdir()
    (folder / "main.js").touch()
    for name in ("node", "node.exe"):
        (folder / name).touch(mode=0o755)
    return folder


@pytest.fixture
def machine(node_folder, monkeypatch):
    """Return a function that builds a healthy machine, apart from what it is given."""
    for variable in (DATA_VARIABLE, NASLIB_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    find_spec = importlib.util.find_spec  # other tests of this process may have imported a NASLib
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "naslib" else find_spec(name))

    def build(attempts=None, *, installed=INSTALLED, node="v18.15.0", **others):
        table_of_attempts = {TORCH: reported(TORCH_REPORT), **(attempts or {})}

        def run(command):
            if command[1:] == ["--version"]:
                return node if isinstance(node, Attempt) else Attempt(0, stdout=node + "\n")
            probes = [probe for probe in table_of_attempts if probe.command == command]
            return table_of_attempts[probes[0]] if probes else reported({})

        def version(name):
            if name not in installed:
                raise metadata.PackageNotFoundError(name)
            return installed[name]

        healthy = Surroundings(
            run=run,
            version=version,
            python="3.11.7",
            declared=Declared(">=3.11,<3.14", LIBRARIES),
            node_folder=node_folder,
        )
        return replace(healthy, **others)

    return build


def findings_of(around):
    return {finding.check: finding for finding in diagnose(around)}


def without(name):
    return {library: version for library, version in INSTALLED.items() if library != name}


def test_healthy_machine_has_nothing_but_ok(machine):
    stream = io.StringIO()
    assert run_doctor(stream, around=machine()) == 0
    lines = stream.getvalue().splitlines()
    assert lines[-1] == "A search can run."
    assert "cure:" not in stream.getvalue()
    assert {line.split()[0] for line in lines[1:-2]} == {"ok"}


@pytest.mark.parametrize("stderr", [NMS, OTHER_CUDA])
def test_torchvision_for_another_torch(machine, stderr):
    broken = [TORCHVISION, LIGHTNING, NNI, BALENAS]
    around = machine(dict.fromkeys(broken, failed(stderr)))
    found = findings_of(around)
    for probe in broken:
        assert found[probe.check].status == "broken"
        assert "torchvision is built for another torch" in found[probe.check].detail
        assert found[probe.check].cure.startswith(REINSTALL_PAIR)
    stream = io.StringIO()
    assert run_doctor(stream, around=around) == 2
    assert stream.getvalue().count(REINSTALL_PAIR) == 1  # once, then "as above"
    assert stream.getvalue().splitlines()[-1] == (
        "No search can run until this is cured: import torchvision, import lightning, NNI's strategies, "
        "BaLeNAS for NNI."
    )


def test_lightning_missing(machine):
    attempts = dict.fromkeys([LIGHTNING, NNI, BALENAS], failed(NO_LIGHTNING))
    found = findings_of(machine(attempts, installed=without("pytorch-lightning")))
    for check in ("pytorch-lightning", LIGHTNING.check, NNI.check, BALENAS.check):
        assert found[check].status == "broken"
        assert found[check].cure == 'pip install "pytorch-lightning>=2.6,<2.7"'
    assert "nni.nas needs it" in found[NNI.check].detail


def test_setuptools_too_new_only_warns(machine):
    around = machine({NNICTL: failed(NO_PKG_RESOURCES)}, installed=INSTALLED | {"setuptools": "82.0.1"})
    found = findings_of(around)
    for check in ("setuptools", "nnictl"):
        assert found[check].status == "warning"
        assert "pkg_resources" in found[check].detail
        assert found[check].cure == 'pip install "setuptools<81"'
    stream = io.StringIO()
    assert run_doctor(stream, around=around) == 0
    assert stream.getvalue().splitlines()[-1] == ("A search can run; look at the warnings, though: setuptools, nnictl.")


def test_placeholder_strategies(machine):
    found = findings_of(machine({NNI: failed(PLACEHOLDER)}))[NNI.check]
    assert found.status == "broken"
    assert "placeholders in the place of DARTS" in found.detail
    assert "LRScheduler" in found.detail
    assert '"nni==3.0"' in found.cure


def test_placeholder_because_of_lightning_names_lightning(machine):
    text = (
        """ImportError: DARTS is an ImportFailedStrategy: ModuleNotFoundError("No module named 'pytorch_lightning'")"""
    )
    assert findings_of(machine({NNI: failed(text)}))[NNI.check].cure == 'pip install "pytorch-lightning>=2.6,<2.7"'


@pytest.mark.parametrize(
    ("module", "cure"),
    [
        ("nni", 'pip install "nni==3.0"'),
        ("sklearn", 'pip install "scikit-learn>=1.4"'),
        ("nni.nas.space", 'pip install --force-reinstall "nni==3.0"'),  # NNI 2, or a folder named nni
        ("schema", "pip check  # it names what is missing: install that"),
    ],
)
def test_missing_modules(machine, module, cure):
    found = findings_of(machine({NNI: missing(module)}))[NNI.check]
    assert (found.status, found.cure) == ("broken", cure)


@pytest.mark.parametrize("code", [None, -9, -4, -11, 3])
def test_unrecognised_ends_say_how_to_see_more(machine, code):
    found = findings_of(machine({BALENAS: Attempt(code)}))[BALENAS.check]
    assert found.status == "broken"
    words = {None: "did not end within", -9: "SIGKILL", -4: "SIGILL", -11: "SIGSEGV", 3: "status 3"}
    assert words[code] in found.detail
    assert 'python -c "from balenas_plugin import BaLeNAS"' in found.cure


@pytest.mark.parametrize(
    ("version", "status"), [("3.10.14", "broken"), ("3.11.0", "ok"), ("3.13.1", "ok"), ("3.14.0", "broken")]
)
def test_python(machine, version, status):
    found = findings_of(machine(python=version))["Python"]
    assert found.status == status
    assert version in found.detail
    assert found.cure == ("use a Python >=3.11,<3.14" if status == "broken" else "")


@pytest.mark.parametrize(
    ("library", "version", "cure"),
    [
        ("torch", "2.16.0", 'pip install "torch>=2.11,<2.16"'),
        ("torch", "2.10.1+cu130", 'pip install "torch>=2.11,<2.16"'),
        ("torchvision", "0.30.0", 'pip install "torchvision>=0.26,<0.30"'),
        ("pytorch-lightning", "2.5.9", 'pip install "pytorch-lightning>=2.6,<2.7"'),
        ("nni", "2.10.1", 'pip install "nni==3.0"'),
        ("numpy", "1.25.2", 'pip install "numpy>=1.26"'),
        ("pyarrow", "14.0.0", 'pip install "pyarrow>=15"'),
        ("scikit-learn", "1.3.2", 'pip install "scikit-learn>=1.4"'),
    ],
)
def test_untested_version_is_a_warning(machine, library, version, cure):
    found = findings_of(machine(installed=INSTALLED | {library: version}))
    assert found[library].status == "warning"
    assert version in found[library].detail
    assert found[library].cure == cure
    assert {finding.status for name, finding in found.items() if name != library} == {"ok"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_missing_library(machine, library):
    found = findings_of(machine(installed=without(library)))[library]
    optional = library in {"setuptools", "pyarrow", "scikit-learn"}
    assert found.status == ("warning" if optional else "broken")
    assert found.cure == f'pip install "{library}{LIBRARIES[library]}"'


def test_damaged_version_does_not_hide_the_others(machine):
    found = findings_of(machine(installed=INSTALLED | {"numpy": None, "pyarrow": "not a version", "setuptools": "82"}))
    assert found["numpy"].detail == "its metadata is damaged"
    assert found["numpy"].cure == 'pip install --force-reinstall "numpy>=1.26"'
    assert found["pyarrow"].status == "warning"
    assert found["setuptools"].cure == 'pip install "setuptools<81"'


def test_without_packaging_versions_are_shown(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.specifiers", None)
    found = findings_of(machine(python="3.14.0", installed=INSTALLED | {"torch": "1.0"}))
    assert found["version bounds"] == Finding(
        "version bounds",
        "warning",
        "the library `packaging` is missing: versions are shown, not compared",
        "pip install packaging",
    )
    assert (found["torch"].status, found["torch"].detail) == ("ok", "1.0")
    assert found["Python"].status == "ok"


def test_package_not_installed(machine):
    found = findings_of(machine({NNI: failed(NMS)}, declared=None))
    assert found["version bounds"].status == "warning"
    assert found["version bounds"].cure.startswith("pip install .")
    assert found[NNI.check].cure.startswith("pip install --force-reinstall torch torchvision setuptools nni")


def test_declared_bounds_leave_extras_out(monkeypatch):
    about = Message()
    about["Requires-Python"] = "<3.14,>=3.11"
    for line in ("nni==3.0", "torch<2.16,>=2.11", "numpy", 'pytest>=8; extra == "test"'):
        about["Requires-Dist"] = line
    monkeypatch.setattr(metadata, "metadata", lambda name: about)
    assert read_declared() == Declared(">=3.11,<3.14", {"nni": "==3.0", "torch": ">=2.11,<2.16", "numpy": ""})


def test_real_declared_bounds_name_what_the_brief_asks_for():
    declared = read_declared()
    assert declared is not None
    assert set(LIBRARIES) <= set(declared.libraries)
    assert not {"pytest", "ruff"} & set(declared.libraries)


@pytest.mark.parametrize(
    ("spoil", "word", "cure"),
    [
        (lambda folder: (folder / "main.js").unlink(), "main.js is missing", "--no-deps"),
        (lambda folder: [(folder / name).unlink() for name in ("node", "node.exe")], "is missing", "--no-deps"),
        pytest.param(
            lambda folder: (folder / "node").chmod(0o644),
            "not executable",
            "chmod +x",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows has no execute permission"),
        ),
    ],
)
def test_manager_files(machine, node_folder, spoil, word, cure):
    spoil(node_folder)
    found = findings_of(machine())["NNI manager"]
    assert found.status == "warning"
    assert word in found.detail
    assert "searches run without" in found.detail
    assert cure in found.cure


def test_manager_that_is_absent_or_does_not_run(machine):
    assert findings_of(machine(node_folder=None))["NNI manager"].status == "warning"
    old_libc = failed("node: /lib/libc.so.6: version `GLIBC_2.28' not found (required by node)\n")
    found = findings_of(machine(node=old_libc))["NNI manager"]
    assert found.status == "warning"
    assert "GLIBC_2.28" in found.detail
    assert found.cure == 'pip install --force-reinstall "nni==3.0" --no-deps'


def gpu_finding(machine, **changes):
    return findings_of(machine({TORCH: reported(TORCH_REPORT | {"built_for": "CUDA 13.2"} | changes)}))["GPU"]


def test_gpus(machine):
    gib = 1 << 30
    devices = [["Tesla T4", 14 * gib, 15 * gib], ["Tesla T4", gib // 2, 15 * gib]]
    found = gpu_finding(machine, devices=devices)
    assert (found.status, found.detail) == ("ok", "Tesla T4, 14.0 of 15.0 GiB free; Tesla T4, 0.5 of 15.0 GiB free")
    assert gpu_finding(machine, mps=True).detail == "Apple MPS"
    assert gpu_finding(machine).detail == "CPU: torch finds no GPU (torch is built for CUDA 13.2)"


def test_gpu_that_cannot_be_used(machine):
    no_kernel = gpu_finding(machine, error="AcceleratorError: CUDA error: no kernel image is available")
    assert no_kernel.status == "broken"
    assert "CUDA_VISIBLE_DEVICES" in no_kernel.cure
    old_driver = gpu_finding(machine, said=["CUDA initialization: The NVIDIA driver on your system is too old"])
    assert old_driver.status == "warning"
    assert "update the driver" in old_driver.cure


def test_gpu_unknown_when_torch_is_broken(machine):
    found = findings_of(machine({TORCH: failed("ImportError: libcudnn.so.9: cannot open shared object file\n")}))
    assert found[TORCH.check].status == "broken"
    assert "libcudnn.so.9" in found[TORCH.check].detail
    assert found["GPU"].status == "warning"
    assert found["CPU"].status == "ok"


def test_naslib_absent_is_ok(machine):
    found = findings_of(machine())["NASLib"]
    assert found.status == "ok"
    assert "optional" in found.detail


def test_naslib_path(machine, monkeypatch, tmp_path):
    monkeypatch.setenv(NASLIB_VARIABLE, str(tmp_path))
    assert "no folder naslib" in findings_of(machine())["NASLib"].detail
    (tmp_path / "naslib").mkdir()
    assert findings_of(machine())["NASLib"] == Finding("NASLib", "ok", "imported")
    where = reported({"version": "0.1.0 in /home/me/NASLib"})
    assert findings_of(machine({NASLIB: where}))["NASLib"] == Finding("NASLib", "ok", "0.1.0 in /home/me/NASLib")
    found = findings_of(machine({NASLIB: missing("ConfigSpace")}))["NASLib"]
    assert (found.status, found.cure) == ("warning", NASLIB_EXTRA)


def test_data(monkeypatch, tmp_path):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    assert check_data().status == "ok"
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    (tmp_path / DATA_FILES[0]).touch()
    found = check_data()
    assert found.status == "ok"
    assert found.detail.endswith(f"{DATA_FILES[0]} (absent: {DATA_FILES[1]})")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "nowhere"))
    assert check_data().status == "warning"


def test_data_names_are_those_that_the_readers_use():
    from balenas_plugin.data.sources.location import ENVIRONMENT_VARIABLE

    assert ENVIRONMENT_VARIABLE == DATA_VARIABLE


def test_little_disk(monkeypatch, tmp_path):
    assert check_disk(tmp_path).detail.endswith("GiB free here")
    assert check_disk(tmp_path).status == "ok"
    monkeypatch.setattr(doctor_checks.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1 << 20}))
    assert check_disk(tmp_path).status == "warning"


def test_check_that_fails_itself_is_reported_not_raised(machine, monkeypatch):
    def vanished(folder):
        raise FileNotFoundError("the current folder was deleted")

    monkeypatch.setattr(doctor_checks.shutil, "disk_usage", vanished)
    found = findings_of(machine())
    assert found["disk"].status == "warning"
    assert "the current folder was deleted" in found["disk"].detail
    assert found["data"].status == "ok"


def test_table_is_aligned_and_details_stay_on_one_line():
    rows = list(table([Finding("a", "ok", "one\n  two"), Finding("longer", "broken", "x" * 1000, "do this")]))
    assert rows[0] == "ok    a       one two"
    assert rows[1].startswith("FAIL  longer  xxx")
    assert len(rows[1]) < 300
    assert rows[2] == "        cure: do this"
    assert rows[-1] == "No search can run until this is cured: longer."


def test_letters_that_the_terminal_lacks_do_not_stop_the_doctor(machine):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert run_doctor(stream, around=machine({NNICTL: failed("OSError: Änderung in naïve/日本\n")})) == 0
    stream.flush()
    assert b"OSError: ?nderung" in stream.buffer.getvalue()

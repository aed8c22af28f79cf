"""The directions of imports: mathematics at the bottom, frameworks in the adapters only, the command line on top."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "balenas_plugin"

LAZY = {"search_spaces/*/ground_truth.py", "search_spaces/*/supernet.py"}
"""Modules of a search space that it names, and that are imported when they are needed: above the rest of it."""

ABOVE = {"training/searched.py"}
"""Another such module: what a run's folder gives to training is known by the adapter."""

LAYERS = (
    {"errors", "machine", "restoring"},
    {"bounded_yaml", "files", "options", "parts", "signals"},
    {"bayes", "data", "mixed_ops"},
    {"fused", "search_spaces"},
    {"benchmarks", "costs", "diagnostics", "distributions", "export", "presets", "proxies"},
    {"deployment", "perturbations", "schedules"},
    {"search", *LAZY},
    {"config"},
    {"doctor", "ground_truth", "run_folder", "selection"},
    {"report", "training"},
    {"reproduce"},
    {"adapters"},
    ABOVE,
    {"auto"},
    {"cli", "naslib", "__init__"},
)
"""Parts of the package from the bottom up; a part imports only parts of lower layers, and itself."""

ROOMS = ("supernets", "candidates", "one_shot", "callbacks", "strategies", "run", "web")
"""Rooms of adapters/nni from the bottom up; a module imports only from its own room and from lower ones."""

MOST_MODULES = 12
"""In one folder, __init__.py not counted; nor the parts in a folder of parts, of which a new idea is one more file."""

MOST_LINES = 400

FRAMEWORKS = {
    "nni": ("adapters/nni/",),
    "pytorch_lightning": ("adapters/nni/", "training/"),
    "lightning": ("adapters/nni/",),
    "lightning_fabric": ("adapters/nni/",),
    "torchmetrics": ("adapters/nni/", "training/"),
    "naslib": ("adapters/naslib/",),
}
"""What may be imported in some folders only."""


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module as its path inside the package, where search_spaces/ is too when installed, and its file."""
    for base in (ROOT / PACKAGE, ROOT / "search_spaces"):
        for path in sorted(base.rglob("*.py")):
            yield path.relative_to(ROOT / PACKAGE if base.name == PACKAGE else ROOT).as_posix(), path


def imports_of(source: str, module: str) -> Iterator[str]:
    """Yield the dotted names that a module imports, wherever in it and if only for types; relative ones absolute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = [PACKAGE, *Path(module).parent.parts]
            base = above[: len(above) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from balenas_plugin import cli` imports a part, `from balenas_plugin.cli import main` a name of one
            for one in (f"{name}.{alias.name}" for alias in node.names):
                yield one if inside(one) in MODULES else name


def inside(name: str) -> str:
    """Return the name of a module without that of the package."""
    return name.removeprefix(f"{PACKAGE}.")


def dotted(module: str) -> str:
    """Return the name of a module inside the package."""
    return ".".join(Path(module).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(module): path for module, path in modules()}


def part_of(module: str) -> str:
    """Return the part of the package that a module belongs to."""
    lazy = (pattern for pattern in (*LAZY, *ABOVE) if Path(module).match(pattern))
    return next(lazy, Path(module).parts[0].removesuffix(".py"))


def layer_of(part: str) -> int:
    """Return the layer of a part."""
    for number, layer in enumerate(LAYERS):
        if part in layer:
            return number
    raise AssertionError(f"{part} is in no layer: add it to LAYERS in {Path(__file__).name}, as low as it can be")


def room_of(names: Sequence[str]) -> int:
    """Return the number of the room in adapters/nni that a module is in, of one above all for the folder itself."""
    return ROOMS.index(names[2]) if len(names) > 3 and names[1] == "nni" else len(ROOMS)


def violations(module: str, source: str) -> Iterator[str]:
    """Yield what is wrong with the imports of a module."""
    part = part_of(module)
    for name in imports_of(source, module):
        first, *rest = name.split(".")
        home = FRAMEWORKS.get(first)
        supernet = first == "nni" and Path(module).match("search_spaces/*/supernet.py")
        if home is not None and not module.startswith(home) and not supernet:
            yield f"{module} imports {name}: only {' and '.join(home)} may"
        if first == PACKAGE and rest:
            imported = rest[0]
            if imported == "adapters" and part == "adapters":
                if len(rest) > 1 and rest[1] != Path(module).parts[1]:
                    yield f"{module} imports another adapter, {name}"
                elif room_of(rest) > room_of(Path(module).parts):
                    yield f"{module} imports {name}: its room is not above {rest[2]}"
            elif imported != part and layer_of(imported) >= layer_of(part):
                yield f"{module} imports {name}: {part} is not above {imported}"
        if part == "bayes" and first not in {*sys.stdlib_module_names, PACKAGE, "torch"}:
            yield f"{module} imports {name}: bayes is torch and the standard library only"


def test_every_import_points_down() -> None:
    found = [violation for module, path in modules() for violation in violations(module, path.read_text("utf-8"))]
    assert found == []


def test_there_are_no_circles() -> None:
    imported = {
        dotted(module): {inside(x) for x in imports_of(path.read_text("utf-8"), module) if x.startswith(PACKAGE)}
        for module, path in modules()
    }
    for module, names in imported.items():
        names &= MODULES.keys() - {module}
    graphlib.TopologicalSorter(imported).prepare()  # its CycleError names the modules of a circle


def is_part(path: Path) -> bool:
    """Return whether a module is one that a registry finds."""
    return path.with_name("_registry.py").exists() and not path.name.startswith("_")


def test_folders_and_modules_are_small() -> None:
    counts = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py" and not is_part(path))
    assert {folder.relative_to(ROOT): n for folder, n in counts.items() if n > MOST_MODULES} == {}
    everything = [*MODULES.values(), *(ROOT / "integration_tests").rglob("*.py")]
    lines = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8").count("\n") for path in everything}
    assert {path: n for path, n in lines.items() if n > MOST_LINES} == {}


def test_all_parts_are_looked_at() -> None:
    parts = {part_of(module) for module, _ in modules()}
    assert {"bayes", "proxies", "export", "benchmarks", "data", "search_spaces", "adapters", "cli", "errors"} <= parts
    for part in parts:
        layer_of(part)


def test_bayes_needs_the_lowest_parts_only() -> None:
    imported = {
        name.split(".")[1]
        for module, path in modules()
        if part_of(module) == "bayes"
        for name in imports_of(path.read_text("utf-8"), module)
        if name.startswith(f"{PACKAGE}.")
    }
    assert imported <= {"bayes", "errors", "files", "restoring"}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bayes/x.py", "import numpy"),
        ("bayes/x.py", "from balenas_plugin.selection import rank"),
        ("bayes/x.py", "from balenas_plugin import export"),
        ("bayes/x.py", "from ..export import rank"),
        ("export/x.py", "def f():\n    import nni.nas"),
        ("data/x.py", "from pytorch_lightning import Trainer"),
        ("run_folder/x.py", "from balenas_plugin.adapters.nni import BaLeNAS"),
        ("search_spaces/x/notation.py", "from nni.nas.nn.pytorch import ModelSpace"),
        ("search_spaces/x/notation.py", "from balenas_plugin.benchmarks import Benchmark"),
        ("search_spaces/x/supernet.py", "from balenas_plugin.adapters.nni import BaLeNAS"),
        ("adapters/nni/x.py", "import naslib"),
        ("adapters/naslib/x.py", "from balenas_plugin.adapters.nni import BaLeNAS"),
        ("adapters/nni/x.py", "from balenas_plugin.cli import main"),
        ("adapters/nni/supernets/x.py", "from balenas_plugin.adapters.nni.callbacks.checkpoint import LAST"),
        ("adapters/nni/run/x.py", "def f():\n    from balenas_plugin.adapters.nni.web import ui"),
    ],
)
def test_a_wrong_import_is_noticed(module: str, line: str) -> None:
    assert list(violations(module, line))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bayes/x.py", "import math, torch.nn\nfrom balenas_plugin.bayes.vadam import VAdam"),
        ("adapters/nni/x.py", "import nni\nfrom balenas_plugin import __version__\nfrom .checkpoint import LAST"),
        ("adapters/nni/x.py", "from balenas_plugin.adapters.nni.callbacks.checkpoint import LAST"),
        ("cli/search.py", "from balenas_plugin.adapters.nni.run.config_run import run_search"),
        ("search_spaces/x/supernet.py", "from nni.nas.nn.pytorch import ModelSpace"),
        ("search_spaces/x/ground_truth.py", "from balenas_plugin.benchmarks import Benchmark"),
    ],
)
def test_right_imports_are_not(module: str, line: str) -> None:
    assert list(violations(module, line)) == []

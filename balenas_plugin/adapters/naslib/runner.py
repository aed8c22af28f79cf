"""`balenas naslib SCRIPT`: run one of NASLib's own scripts with the methods of this package among its optimizers.

NASLib has no registry: each script makes a dict of optimizers and takes one by its name. The script is read, an entry
for each preset, made as the script makes the others, is added to that dict in memory, and it is run as Python would run
it. `balenas` is BaLeNAS, `balenas-drnas` our DrNAS, beside NASLib's own `drnas`.
"""

from __future__ import annotations

import ast
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from naslib import optimizers

from balenas_plugin.adapters.naslib.compatibility import bind_arguments, let_runners_resume, repair_for_runner
from balenas_plugin.adapters.naslib.optimizer import DistributionOptimizer
from balenas_plugin.adapters.naslib.optimizer_options import SEARCH_OPTIONS, naslib_names, usable_presets
from balenas_plugin.distributions import get_distribution, list_distributions
from balenas_plugin.errors import BalenasError, DataError, OptionError, nearest

_CLASS = "_DistributionOptimizer"
_BENCHMARKS, _PARSER = "get_dataset_api.py", "get_config_from_args"
"""Where NASLib opens benchmark files and reads the command line; what is wrong there is for the user to cure."""


def script_names() -> dict[str, str]:
    """Return the name of each preset in a script -> the preset's."""
    return {"balenas" if name == "BaLeNAS" else f"balenas-{name.lower()}": name for name in usable_presets()}


def run_script(script: Path, arguments: Sequence[str]) -> None:
    """Run a script of NASLib as ``python SCRIPT ARGUMENTS`` would, with our presets selectable.

    Raises:
        OptionError: the script is missing, has no dict of optimizers, or lacks the one asked for.
        DataError: a file or a package of a benchmark is missing.
    """
    tree = _parse(script)
    add_optimizers(tree, script)
    code = compile(tree, str(script), "exec")
    sys.argv[0] = str(script)
    bind_arguments(list(arguments))
    repair_for_runner()
    let_runners_resume()
    try:
        _execute(code, script)
    except Exception as error:
        curable = _users_fault(error, script, _names(tree))
        if curable is None:
            raise
        raise curable from error


def _parse(script: Path) -> ast.Module:
    try:
        return ast.parse(script.read_bytes(), str(script))
    except OSError as error:
        raise OptionError(
            f"cannot read the script {script}: {error.strerror}. Give one of NASLib's, e.g. "
            "NASLib/naslib/runners/nas/runner.py"
        ) from error
    except (SyntaxError, ValueError) as error:
        raise OptionError(f"{script} is not a Python script: {error}") from error


def add_optimizers(tree: ast.Module, script: Path) -> list[str]:
    """Add our presets to every dict of optimizers of a script, called as its neighbours are; return all their names.

    Raises:
        OptionError: there is no such dict.
    """
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            calls = [v for v in node.values if isinstance(v, ast.Call) and _is_optimizer(v.func)]
            if not calls:
                continue
            found = [str(key.value) for key in node.keys if isinstance(key, ast.Constant)]
            for name, preset in script_names().items():
                if name not in found:
                    chosen = ast.keyword("preset", ast.Constant(preset))
                    call = ast.Call(ast.Name(_CLASS, ast.Load()), calls[0].args, [*calls[0].keywords, chosen])
                    node.keys.append(ast.Constant(name))
                    node.values.append(call)
                    found.append(name)
            names += found
    if not names:
        raise OptionError(
            f"{script} has no dict of optimizers to which balenas could be added, such as the one in NASLib's "
            "naslib/runners/nas/runner.py. In a script of your own: from balenas_plugin.naslib import BaLeNASOptimizer"
        )
    ast.fix_missing_locations(tree)
    return names


def _names(tree: ast.Module) -> list[str]:
    """Return what the dicts of a script name: its optimizers, search spaces and the like."""
    keys = [key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys]
    return [str(key.value) for key in keys if isinstance(key, ast.Constant)]


def _is_optimizer(called: ast.expr) -> bool:
    name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
    return isinstance(getattr(optimizers, name, None), type)


def _execute(code: CodeType, script: Path) -> None:
    """Run the code as the main module, with the script's folder first on the path, as Python does."""
    module = ModuleType("__main__")
    module.__dict__.update({"__file__": str(script), _CLASS: _made})
    previous, path = sys.modules["__main__"], list(sys.path)
    sys.modules["__main__"] = module
    sys.path.insert(0, str(script.resolve().parent))
    try:
        exec(code, module.__dict__)  # the user's own script
    finally:
        sys.path[:] = path
        sys.modules["__main__"] = previous


def _made(*arguments: Any, **options: Any) -> Any:
    """Return an optimizer; one that refuses its options says so when it is used: a script makes all, and uses one."""
    try:
        return DistributionOptimizer(*arguments, **options)
    except BalenasError as error:
        return _Refused(error)


class _Refused:
    """Raises an error when it is used."""

    def __init__(self, error: BalenasError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error


def _users_fault(error: Exception, script: Path, names: Sequence[str]) -> Exception | None:
    """Return an error with a cure for what a user can cure, None for all else, which keeps its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    last = Path(frames[-1].filename)
    if isinstance(error, KeyError) and last == script:
        return OptionError(
            f"{script} knows no {error.args[0]!r}{nearest(str(error.args[0]), names)} It knows {', '.join(names)}"
        )
    if isinstance(error, KeyError) and _PARSER in {frame.name for frame in frames}:
        kinds = [get_distribution(name) for name in list_distributions()]
        ours = [*SEARCH_OPTIONS, *(option for kind in kinds for option in naslib_names(kind))]
        return OptionError(
            f"the config has no option {error.args[0]!r}{nearest(str(error.args[0]), ours)} On the command "
            "line NASLib takes options that the config file has, so write others there."
        )
    if isinstance(error, (AssertionError, ImportError, OSError)) and _BENCHMARKS in {
        Path(frame.filename).name for frame in frames
    }:
        said = " ".join(str(error).split())
        return DataError(f"NASLib's benchmark of this search space and data set cannot be opened: {said}")
    if isinstance(error, FileNotFoundError):
        return DataError(f"NASLib did not find a file: {error}")
    return None

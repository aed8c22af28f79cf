"""`balenas naslib`: scripts of NASLib with our methods among their optimizers, and its messages where that fails."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from naslib import utils

from balenas_plugin.adapters.naslib.optimizer_options import SEARCH_OPTIONS, SearchOptions, naslib_names, usable_presets
from balenas_plugin.adapters.naslib.runner import add_optimizers, script_names
from balenas_plugin.distributions.gaussian import Gaussian
from balenas_plugin.errors import OptionError
from balenas_plugin.naslib import BaLeNASOptimizer, DistributionOptimizer
from balenas_plugin.search import Order

from ..cli.commands import Ended, balenas  # noqa: TID252  (tests are in no package to name)
from .test_resume import CONFIG, run
from .which import DOUBLE, REAL, VARIABLE, root

CONFIGS = Path(__file__).parents[2] / "configs" / "naslib"
RUNNER = root() / "naslib" / "runners" / "nas" / "runner.py"


def launch(script: Path, *arguments: str, folder: Path, naslib: Path | None = None) -> Ended:
    environment = {VARIABLE: str(naslib or root())}
    return balenas("naslib", script, *arguments, folder=folder, **environment)


def refused(ended: Ended) -> str:
    """Return the one message of a command that was refused."""
    assert ended.code == 2, ended.errors
    lines = [line for line in ended.errors.splitlines() if line.startswith("balenas: ")]
    assert len(lines) == 1
    assert "Traceback" not in ended.errors
    return ended.errors[ended.errors.index("balenas: ") :]


@pytest.mark.parametrize("optimizer", ["drnas", "gdas"])
def test_the_others_run_beside_it(optimizer: str, tmp_path: Path) -> None:
    ended = run(tmp_path, "optimizer", optimizer, "search.epochs", "1")
    assert ended.code == 0, ended.errors
    assert "result: 90.0" in ended.output


@pytest.mark.skipif(REAL, reason="NASLib's runner needs its benchmark files and CIFAR-10; see docs/naslib.md")
@pytest.mark.parametrize("optimizer", ["balenas", "balenas-gdas"])
def test_the_unmodified_runner(optimizer: str, tmp_path: Path) -> None:
    before = RUNNER.read_bytes()
    ended = launch(RUNNER, "optimizer", optimizer, folder=tmp_path)
    assert ended.code == 0, ended.errors
    assert "result: 90.0" in ended.output
    assert (tmp_path / "run" / "nasbench201" / "cifar10" / optimizer / "99" / "search" / "model_final.pth").exists()
    assert RUNNER.read_bytes() == before


def test_runner_gets_the_entries() -> None:
    tree = ast.parse(RUNNER.read_text())
    names = add_optimizers(tree, RUNNER)
    assert set(names) >= {"darts", "drnas", "gdas", *script_names()}
    assert script_names()["balenas"] == "BaLeNAS"
    assert "'balenas-drnas': _DistributionOptimizer(config, preset='DrNAS')" in ast.unparse(tree)


def test_called_as_its_neighbours_are() -> None:
    tree = ast.parse("names = {'darts': DARTSOptimizer(**config.search), 'other': 1}\nspaces = {'a': Space()}")
    names = ["darts", "other", *script_names()]
    assert add_optimizers(tree, Path("script.py")) == names
    assert "'balenas': _DistributionOptimizer(**config.search, preset='BaLeNAS')" in ast.unparse(tree)
    assert add_optimizers(tree, Path("script.py")) == names  # not twice


def test_script_without_a_dict() -> None:
    with pytest.raises(OptionError, match="has no dict of optimizers"):
        add_optimizers(ast.parse("optimizer = DARTSOptimizer()"), Path("script.py"))


def test_missing_script(tmp_path: Path) -> None:
    assert "cannot read the script nothing.py" in refused(launch(Path("nothing.py"), folder=tmp_path))


def test_not_python(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def")
    assert "is not a Python script: invalid syntax" in refused(launch(script, folder=tmp_path))


def test_unknown_optimizer(tmp_path: Path) -> None:
    message = refused(run(tmp_path, "optimizer", "balenas-drnass"))
    assert "knows no 'balenas-drnass'; did you mean 'balenas-drnas'? It knows darts, drnas, gdas, balenas" in message


def test_misspelled_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(run(tmp_path, "search.num_mc_sample", "3"))
    assert "the config has no option 'num_mc_sample'; did you mean 'num_mc_samples'?" in message
    monkeypatch.setitem(CONFIG["search"], "num_mc_sample", 3)
    assert "BaLeNAS has no option 'num_mc_sample'; did you mean 'num_mc_samples'?" in refused(run(tmp_path))
    assert run(tmp_path, "optimizer", "darts", "search.epochs", "1").code == 0  # whose options they are not


def test_missing_config(tmp_path: Path) -> None:
    message = refused(launch(RUNNER, "--config-file", "nothing.yml", folder=tmp_path))
    assert "NASLib did not find a file" in message
    assert "nothing.yml" in message


def test_missing_benchmark(tmp_path: Path) -> None:
    ended = launch(RUNNER, "search_space", "nasbench101", folder=tmp_path)
    assert "Could not find" in refused(ended)


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from naslib.optimizers import DARTSOptimizer\nd = {'darts': DARTSOptimizer()}\n1 / 0\n")
    ended = launch(script, folder=tmp_path)
    assert ended.code == 1
    assert 'script.py", line 3' in ended.errors
    assert "ZeroDivisionError" in ended.errors


def test_exit_status_of_the_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom naslib.optimizers import *\nd = {'darts': DARTSOptimizer()}\nsys.exit(len(sys.argv))"
    )
    assert launch(script, "a", "--resume", folder=tmp_path).code == 3


def test_naslib_absent(tmp_path: Path) -> None:
    message = refused(launch(RUNNER, folder=tmp_path, naslib=tmp_path))
    assert f"{VARIABLE} is '{tmp_path}', where there is no folder naslib" in message
    if not REAL:
        ended = balenas("naslib", RUNNER, folder=tmp_path, **{VARIABLE: ""})
        for line in (
            "NASLib is not on Python's path",
            "git clone",
            "checkout 0b51bc18",
            "pip install '.[naslib]'",
        ):
            assert line in refused(ended)


def test_naslib_with_a_dependency_missing(tmp_path: Path) -> None:
    (tmp_path / "naslib").mkdir()
    (tmp_path / "naslib" / "__init__.py").write_text("import fvcore_that_is_not_there")
    message = refused(launch(RUNNER, folder=tmp_path, naslib=tmp_path))
    assert f"NASLib was found at {tmp_path / 'naslib'}, but importing it failed" in message
    assert "ModuleNotFoundError: No module named 'fvcore_that_is_not_there'" in message
    assert "pip install '.[naslib]'" in message


def test_the_double_is_not_the_real_one() -> None:
    assert (root() == DOUBLE) is not REAL


@pytest.mark.skipif(REAL, reason="it trains on CIFAR-10; see docs/naslib.md")
def test_script_of_the_documentation(tmp_path: Path) -> None:
    text = (CONFIGS.parents[1] / "docs" / "naslib.md").read_text(encoding="utf-8")
    block, *_ = re.findall(r"^```py\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    script = tmp_path / "this_file.py"
    script.write_text(block)
    command = ["--config-file", CONFIGS / "nb301.yml", "search.epochs", "1"]
    ended = balenas(*command, folder=tmp_path, script=script, **{VARIABLE: str(root())})
    assert ended.code == 0, ended.errors
    assert "Evaluation finished" in ended.output


@pytest.mark.parametrize("name", ["nb201", "nb301"])
def test_our_configs_hold_valid_options(name: str) -> None:
    config = utils.load_config(CONFIGS / f"{name}.yml")
    optimizer = BaLeNASOptimizer(config)
    assert config["optimizer"] == "balenas"
    assert optimizer.options == SearchOptions(data_size=25_000, epochs=50)  # the defaults, written out
    assert optimizer.update_order == Order()
    assert optimizer._chosen.options.keys() == {
        "num_mc_samples",
        "update",
        "lr",
        "prior_precision",
        "initial_precision",
    }
    assert all(DistributionOptimizer(config, preset=preset) for preset in usable_presets())
    assert {*SEARCH_OPTIONS, *naslib_names(Gaussian)} - set(config["search"]) == {
        "antithetic",
        "architecture_every",
        "architecture_steps",
        "betas",
        "clip_with",
        "dataset_size",
        "finite_difference",
        "first",
        "levels",
        "num_mc_samples",
        "order",
        "perturbation",
        "selection",
        "weight_step_alpha",
    }
    assert config["save_arch_weights"] is False
    assert config["search"]["batch_size"] == 64
    assert {"epochs", "batch_size", "learning_rate", "auxiliary_weight"} <= set(config["evaluation"])

"""Help and version, and that they come without importing a framework."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from balenas_plugin import __version__
from balenas_plugin.cli import build_parser, main
from balenas_plugin.cli.completion import NAMES, SHELLS

HEAVY = ("torch", "numpy", "nni", "pytorch_lightning", "naslib", "matplotlib")


def imported_by(statement: str) -> list[str]:
    """Return which of the heavy packages a new process has imported after `statement`."""
    code = f"{statement}\nimport sys\nprint('imported:', *(m for m in {HEAVY} if m in sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env={**os.environ}
    )
    return ended.stdout.rpartition("imported:")[2].split()


def test_importing_the_package_imports_no_framework() -> None:
    assert imported_by("import balenas_plugin; dir(balenas_plugin); balenas_plugin.__version__") == []


def test_help_imports_no_framework() -> None:
    statement = "from balenas_plugin.cli import main\ntry: main(['search', '--help'])\nexcept SystemExit: pass"
    assert imported_by(statement) == []


@pytest.mark.parametrize(
    "statement",
    ["from balenas_plugin.cli import main; main(['completion', 'bash'])", "import balenas_plugin.adapters.nni.trial"],
)
def test_openmp_is_told_to_wait_asleep_before_torch_is_imported(statement: str) -> None:
    code = (
        "import os, sys\nsys.modules['nni'] = sys.modules['torch'] = None\n"
        f"try: {statement}\nexcept ImportError: pass\nprint(os.environ['OMP_WAIT_POLICY'])"
    )
    without = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for environment, expected in ((without, "passive"), ({**without, "OMP_WAIT_POLICY": "active"}, "active")):
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert ended.stdout.split()[-1:] == [expected], ended.stderr


def test_completion_is_quick_enough_for_the_start_of_a_shell() -> None:
    assert imported_by("from balenas_plugin.cli import main; main(['completion', 'bash'])") == []


def completed(script: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of the words."""
    quoted = " ".join(map(shlex.quote, words))
    call = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _shtab_balenas balenas {shlex.quote(words[-1])}"
    lines = [f"source {shlex.quote(str(script))}", call, 'printf "%s\\n" "${COMPREPLY[@]}"']
    ended = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True, cwd=script.parent
    )
    return ended.stdout.split()


def test_bash_completes_commands_options_names_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "balenas.bash"
    script.write_text(capsys.readouterr().out)
    assert completed(script, "balenas", "re") == ["report", "recipes", "reproduce"]
    assert completed(script, "balenas", "export", "--incl") == ["--include-probability"]
    assert completed(script, "balenas", "export", "run", "--proxy", "sy") == ["synflow", "synflow_bn"]
    assert completed(script, "balenas", "export", "run", "--format", "o") == ["onnx"]
    assert completed(script, "balenas", "export", "run", "--selection", "sup") == ["supernet"]
    assert completed(script, "balenas", "search", "bal") == ["balenas.bash"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "naswot" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_names_that_complete_are_those_that_there_are() -> None:
    from balenas_plugin.benchmarks import DATASETS
    from balenas_plugin.options import json_schema
    from balenas_plugin.proxies import list_proxies
    from balenas_plugin.selection.proxy_selection import NAMED_SELECTIONS, PROBABILITY, ProxySelection
    from balenas_plugin.selection.supernet_accuracy import SUPERNET_ACCURACY
    from balenas_plugin.training import list_recipes

    expected = {
        "proxy": {*list_proxies(), SUPERNET_ACCURACY, PROBABILITY},
        "selection": set(NAMED_SELECTIONS),
        "candidates": set(json_schema(ProxySelection)["properties"]["candidates"]["enum"]),
        "dataset": set(DATASETS),
        "recipe": set(list_recipes()),
    }
    assert {name: set(NAMES[name]()) for name in expected} == expected


def test_a_public_name_imports_what_it_needs_only() -> None:
    assert imported_by("from balenas_plugin import Posterior, VAdam") == ["torch", "numpy"]
    with pytest.raises(ImportError):
        exec("from balenas_plugin import Bales")


def help_of(*command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_lists_the_commands_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys=capsys)
    assert "search" in text
    assert "doctor" in text
    assert "balenas search configs/quickstart.yml" in text
    assert "exit codes" in text


def test_each_command_says_what_it_does_with_an_example() -> None:
    parser = build_parser()
    (importing,) = (action for action in parser.commands.choices["benchmark"]._actions if action.choices)
    for command in (*parser.commands.choices.values(), importing.choices["import"]):
        assert command.prog.endswith("benchmark") or f"{command.prog} " in f"{command.epilog} ".replace("\n", " ")
        assert re.match(r"[A-Z].*\.$", command.description), command.prog


def test_help_of_search_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("search", capsys=capsys)
    for option in ("CONFIG.yml", "--set A.B=VALUE", "--seed", "--output DIR", "--resume", "--overwrite"):
        assert option in text
    assert "balenas search configs/quickstart.yml --set strategy.name=DARTS" in text


def test_help_of_naslib_shows_how_to_run_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("naslib", capsys=capsys)
    assert "naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml" in text
    assert "BALENAS_NASLIB_PATH" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"balenas {__version__}\n"


def test_methods_are_listed_with_their_parts_and_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The table knows every part, and says what `Search` says."""
    from balenas_plugin.distributions import list_distributions
    from balenas_plugin.mixed_ops import list_mixed_ops
    from balenas_plugin.perturbations import list_perturbations
    from balenas_plugin.presets import list_presets
    from balenas_plugin.schedules import list_schedules

    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    for name in (*list_presets(), *list_distributions(), *list_perturbations(), *list_mixed_ops(), *list_schedules()):
        assert re.search(rf"^  {name} ", listed, re.MULTILINE), name
    assert re.search(r"^  importance-weighted .*num_mc_samples: 8", listed, re.MULTILINE)
    of_costs = re.findall(r"^  (latency|flops|params) .*table: null", listed, re.MULTILINE)
    assert of_costs == ["latency"]  # the others are counted, and refuse a table
    refused = re.sub(r"\s+", " ", listed.partition("WHAT DOES NOT GO TOGETHER")[2])
    assert re.search(r"or hard-gumbel or .* computes one candidate a draw, so sdarts-adv cannot perturb it", refused)
    assert "levels: 1 has no weight step of its own, which sdarts-rs perturbs" in refused
    assert "importance-weighted learns from losses alone, so edge_normalization has no gradient" in refused
    for reason in (
        "or uniform or a uniform weight step computes one candidate a draw, so operation-dropout cannot",
        "p-darts searches networks of other depths than the space that was given, and costs are of that",
        "levels: 1 has one draw for both levels, so num_mc_samples must be 1",
        "controller or importance-weighted compares the losses of draws, so they must see the same examples",
        "uniform learns nothing, which a schedule is for",
    ):
        assert reason in refused
    assert "Chen et al. 2019\n" in listed  # the source of p-darts; those of methods have titles
    assert not re.search(r"(point|gaussian|dirichlet|[^-]gumbel) (or|computes|compares)", refused)


def test_spaces_are_listed_with_their_sizes_and_ground_truth(capsys: pytest.CaptureFixture[str]) -> None:
    from balenas_plugin.search_spaces import list_spaces

    assert main(["spaces"]) == 0
    listed = capsys.readouterr().out
    for name in list_spaces():
        assert re.search(rf"^{name} ", listed, re.MULTILINE), name
    assert "15,625 architectures; 6 choices among 5: none, skip_connect" in listed
    assert "ground truth: nasbench201.parquet" in listed
    assert "2,123,366,400 architectures; 28 choices among 2: noise, sep_conv_3x3" in listed
    assert "2,123,366,400 architectures; 28 choices among 2 of skip_connect, dil_conv_3x3" in listed


def test_query_counts_and_draws_a_genotype(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """DARTS_V1, as Liu et al. have published it; the counts are those of its reference."""
    monkeypatch.delenv("BALENAS_DATA", raising=False)
    assert main(["query", "darts_v1", "--draw", str(tmp_path / "v1.svg")]) == 0
    printed, said = capsys.readouterr()
    for counts in ("3,169,414 500,987,520", "3,221,344 501,039,360", "4,510,432 505,864,704"):
        assert counts in re.sub(" +", " ", printed)
    assert "read as the published genotype DARTS_V1" in said
    assert "no accuracies: NAS-Bench-301 needs its models" in said
    drawn = {cell: (tmp_path / f"v1-{cell}.svg").read_text() for cell in ("normal", "reduce")}
    assert [text.count("<!-- sep_conv_3x3 -->") for text in drawn.values()] == [5, 0]
    assert not any("probability" in text for text in drawn.values())
    text = printed.splitlines()[0]
    assert main(["query", text.replace("max_pool_3x3", "max_pool_4x4", 1)]) == 2
    assert "reduce cell, node 2: unknown operation 'max_pool_4x4'" in capsys.readouterr().err
    assert main(["query", "-|conv3x3~0|conv3x3~0|-|-|output~2,3"]) == 0  # no option, though it begins like one
    assert "no accuracies: there is no nb1shot1.parquet" in capsys.readouterr().err
    assert main(["query", "gibberish"]) == 2
    assert "no architecture of NAS-Bench-201" in capsys.readouterr().err

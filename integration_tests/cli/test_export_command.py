"""`balenas export` on a finished run."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from balenas_plugin.diagnostics import read_log
from balenas_plugin.selection.supernet_accuracy import estimate_batch_norm

from .commands import balenas, refused


def records(run: Path) -> list[dict]:
    return json.loads((run / "export" / "architectures.json").read_text())


def test_table_json_and_csv(copy_of_finished, folder):
    ended = balenas(
        "export", copy_of_finished, "--samples", 30, "--top", 4, "--seed", 2, folder=folder, BALENAS_DATA=""
    )
    assert ended.code == 0, ended.errors
    found = records(copy_of_finished)
    assert [record["rank"] for record in found] == [1, 2, 3, 4]
    values = [record["scores"]["synflow"] for record in found]
    assert values == sorted(values, reverse=True)
    for record in found:
        assert record["notation"]["nasbench201"] in ended.output
        assert 0 < record["probability"] < 1
        assert set(record["winning_probability"]) == set(record["choices"])
        assert 0 <= record["stability"] <= 1
        assert record["times_drawn"] >= 1
        truth = record["ground_truth"]  # which ships
        assert truth["unseen_by_search"] is True
        assert truth["architecture"] == record["notation"]["nasbench201"]
        assert 0 < truth["values"]["cifar10"]["test_accuracy"] < 100
    rows = list(csv.DictReader((copy_of_finished / "export" / "architectures.csv").open()))
    assert [row["notation_nasbench201"] for row in rows] == [record["notation"]["nasbench201"] for record in found]
    front = json.loads((copy_of_finished / "export" / "pareto.json").read_text())
    assert (front["cost"], front["merit"]) == ("params", "synflow")
    points = [(each["merit"], each["cost"]) for each in front["candidates"]]
    for each, (merit, cost) in zip(front["candidates"], points, strict=True):
        beaten = [p for p in points if p[0] >= merit and p[1] <= cost and p != (merit, cost)]
        assert each["undominated"] == (not beaten)
        assert not each["undominated"] or f"{merit:.5g}  {each['architecture']}" in ended.output
    assert {record["params"] for record in found} <= {cost for _, cost in points}
    with (copy_of_finished / "export" / "pareto.csv").open() as file:
        assert [float(row["cost"]) for row in csv.DictReader(file)] == [cost for _, cost in points]


def test_an_earlier_epoch_is_exported_from_its_own_posterior(copy_of_finished, folder):
    first, last, plain = (folder / name for name in ("first", "last", "plain"))
    common = ("export", copy_of_finished, "--samples", 20, "--top", 1)
    ended = balenas(*common, "--epoch", 0, "--format", "json", "--format", "python", "--output", first, folder=folder)
    assert ended.code == 0, ended.errors
    assert "Posterior: of epoch 0." in ended.output
    assert "those of the last epoch" in ended.output  # of the weights in the files
    log = read_log(copy_of_finished / "diagnostics.jsonl")
    (found,) = json.loads((first / "architectures.json").read_text())
    assert found["epoch"] == 0
    for label, choice in found["choices"].items():
        place = log.header["choices"][label].index(choice)
        assert found["winning_probability"][label] == pytest.approx(log.records[0]["probabilities"][label][place], 1e-5)
    for output, epoch in ((last, ("--epoch", 2)), (plain, ())):
        ended = balenas(*common, *epoch, "--output", output, folder=folder)
        assert ended.code == 0, ended.errors
    (of_last,), (of_plain,) = (json.loads((place / "architectures.json").read_text()) for place in (last, plain))
    assert {**of_plain, "epoch": 2} == of_last  # the posterior is kept exactly
    path = copy_of_finished / "diagnostics.jsonl"
    path.write_text(path.read_text().replace('"logits":', '"logits": ', 1))
    assert "diagnostics.jsonl is not what the search wrote" in refused(*common, "--epoch", 0, folder=folder)


def test_an_epoch_that_is_not_there_is_refused_with_those_that_are(copy_of_finished, folder):
    for epoch in (3, -1):
        message = refused("export", copy_of_finished, "--epoch", epoch, folder=folder)
        assert f"no epoch {epoch}; there are 0 to 2" in message
    (copy_of_finished / "diagnostics.jsonl").unlink()
    assert "leave out --epoch" in refused("export", copy_of_finished, "--epoch", 1, folder=folder)


def test_same_seed_same_files(copy_of_finished, folder):
    for name in ("one", "two"):
        ended = balenas("export", copy_of_finished, "--samples", 20, "--output", folder / name, folder=folder)
        assert ended.code == 0, ended.errors
    for file in ("architectures.json", "architectures.csv"):
        assert (folder / "one" / file).read_bytes() == (folder / "two" / file).read_bytes()


def test_enumerated_with_several_proxies_that_look_at_data(copy_of_finished, folder):
    ended = balenas(
        *("export", copy_of_finished, "--samples", 8, "--candidates", "enumerate", "--include-probability"),
        *("--proxy", "snip", "--proxy", "naswot", "--seeds", 2, "--workers", 2, "--max-params", 1e9),
        folder=folder,
    )
    assert ended.code == 0, ended.errors
    found = records(copy_of_finished)
    assert len(found) == 8
    assert all(set(record["scores"]) == {"snip", "naswot"} for record in found)
    assert all(record["times_drawn"] == 0 and record["params"] > 0 for record in found)


def test_the_supernets_accuracy_ranks_as_it_does_at_the_end_of_a_search(copy_of_finished, folder):
    arguments = ("--selection", "supernet", "--samples", 12, "--images", 50, "--top", 3)
    hidden = {"BALENAS_DATA": "", "BALENAS_GROUND_TRUTH": "off"}
    ended = balenas("export", copy_of_finished, *arguments, "--seed", 4, folder=folder, **hidden)
    assert ended.code == 0, ended.errors
    found = records(copy_of_finished)
    values = [record["scores"]["supernet_accuracy"] for record in found]
    assert values == sorted(values, reverse=True)
    assert all(round(50 * value, 6).is_integer() for value in values)
    assert "supernet_accuracy" in ended.output
    selection = "strategy.selection={proxy: supernet_accuracy, n: 12, images: 50, seed: 4}"
    ended = balenas("search", "tiny.yml", "--set", selection, "--output", "again", folder=folder, **hidden)
    assert ended.code == 0, ended.errors
    at_the_end = json.loads((folder / "again" / "architectures.json").read_text())
    log = read_log(folder / "again" / "diagnostics.jsonl").records
    assert not any("ground_truth" in record for record in (*found, *at_the_end, *log))
    assert [(r["choices"], r["scores"], r["stability"]) for r in at_the_end] == [
        (r["choices"], r["scores"], r["stability"]) for r in found
    ]


def test_the_supernets_accuracy_beside_proxies(copy_of_finished, folder):
    criteria = ("--proxy", "synflow", "--proxy", "supernet_accuracy", "--include-probability")
    arguments = (*criteria, "--samples", 8, "--images", 30, "--batch-norm-batches", 1)
    for workers in (1, 2):
        output = ("--workers", workers, "--output", f"out{workers}")
        ended = balenas("export", copy_of_finished, *arguments, *output, folder=folder)
        assert ended.code == 0, ended.errors
    one, two = (json.loads((folder / f"out{k}" / "architectures.json").read_text()) for k in (1, 2))
    assert one == two
    assert all(set(record["scores"]) == {"synflow", "supernet_accuracy"} for record in one)


def test_python_module_gives_the_outputs_of_the_supernet_with_one_hot_weights(copy_of_finished, folder):
    ended = balenas("export", copy_of_finished, "--top", 1, "--format", "python", "--format", "json", folder=folder)
    assert ended.code == 0, ended.errors
    (record,) = records(copy_of_finished)
    script = (
        "import sys, torch\n"
        "sys.path.insert(0, 'runs/tiny/export')\n"
        "import architecture_001\n"
        "network = architecture_001.load().eval()\n"
        "assert architecture_001.CLASS_NAMES == tuple('0123456789')\n"
        "torch.manual_seed(0)\n"
        "torch.save(network(torch.randn(3, 3, 8, 8)), 'outputs.pt')\n"
        "assert not any(name.split('.')[0] in ('nni', 'balenas_plugin') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, timeout=120)
    torch.manual_seed(0)
    expected = one_hot_outputs(copy_of_finished, record["choices"], torch.randn(3, 3, 8, 8))
    torch.testing.assert_close(torch.load(folder / "outputs.pt", weights_only=True), expected, atol=1e-5, rtol=1e-4)


CELLS = """
from nni.nas.nn.pytorch import Cell, ModelSpace
from torch import nn


class Cells(ModelSpace):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        operations = {"c1": lambda *_: nn.Conv2d(4, 4, 1), "c3": lambda *_: nn.Conv2d(4, 4, 3, padding=1)}
        self.cell = Cell(operations, 2, num_ops_per_node=2, num_predecessors=2, merge_op="all", label="cell")
        self.classifier = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.classifier(self.cell(x, x).mean((2, 3)))
"""


def test_cells_inherit_the_weights_that_nni_cannot_freeze(folder):
    (folder / "cells_space.py").write_text(CELLS)
    space = "space={name: 'cells_space:Cells'}"
    untrained = ("--set", "strategy.candidate_epochs=1")
    ended = balenas("search", "tiny.yml", "--set", space, *untrained, "--output", "cells", folder=folder)
    assert ended.code == 0, ended.errors
    assert "search: note      `balenas ui` alone trains what it finds" in ended.errors
    arguments = ("--samples", 5, "--top", 1, "--format", "python", "--format", "json", "--format", "svg")
    ended = balenas("export", "cells", *arguments, folder=folder)
    assert ended.code == 0, ended.errors
    (record,) = records(folder / "cells")
    first, *_ = (folder / "cells" / "export" / "architecture_001.py").read_text().splitlines()
    assert first == f"# rank 1: {json.dumps(record['choices'])}"
    assert json.dumps(record["choices"]) in ended.output
    weights = torch.load(folder / "cells" / "export" / "architecture_001.pt", weights_only=True)
    state = torch.load(folder / "cells" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    supernet = {key.removeprefix("training_module._model."): value for key, value in state.items()}
    chosen = []
    for node in (2, 3):
        for k in (0, 1):
            operation, (source,) = (record["choices"][f"cell/{what}_{node}_{k}"] for what in ("op", "input"))
            chosen.append(supernet[f"cell.ops.{node - 2}.{source}.{operation}.weight"])
    exported = [value for key, value in weights.items() if "cell" in key and key.endswith("weight")]
    assert len(exported) == 4
    assert all(torch.equal(a, b) for a, b in zip(exported, chosen, strict=True))


def one_hot_supernet(run: Path, choices: dict[str, str]) -> torch.nn.Module:
    """Return the supernet of a run with certain choices, put together without the exporter."""
    from balenas_plugin import BaLeNAS
    from balenas_plugin.adapters.nni.run.build import build_space
    from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, choice_names

    config = yaml.safe_load((run / "config.yml").read_text())
    supernet = BaLeNAS().mutate_model(build_space(config["space"], num_classes=10))
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    prefix = "training_module._model."
    supernet.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    names = choice_names(supernet)
    with torch.no_grad():
        for label, alpha in architecture_parameters(supernet).items():
            alpha.fill_(-1e4)
            alpha[names[label].index(choices[label])] = 1e4
    return supernet.eval()


def one_hot_outputs(run: Path, choices: dict[str, str], images: torch.Tensor) -> torch.Tensor:
    """Return the outputs of `one_hot_supernet` with batch-norm's statistics estimated on batches of the weight half."""
    from balenas_plugin.adapters.nni.run.finished_run import FinishedRun
    from balenas_plugin.run_folder import RunFolder

    batches = FinishedRun.load(RunFolder(run)).trained_supernet().weight_batches(8, seed=0)
    supernet = one_hot_supernet(run, choices)
    estimate_batch_norm(supernet, [inputs for inputs, _ in batches])
    with torch.no_grad():
        return supernet(images)


def test_a_second_export_leaves_nothing_of_the_first(copy_of_finished, folder):
    first = ("--top", 3, "--format", "json", "--format", "csv", "--format", "svg", "--format", "python")
    assert balenas("export", copy_of_finished, "--samples", 20, *first, folder=folder).code == 0
    export = copy_of_finished / "export"
    assert len(list(export.iterdir())) == 2 + 3 + 3 * 3
    for name in ("architecture_001.png", "architecture_1.py", "notes.txt"):  # of somebody else
        (export / name).write_text("mine")
    again = ("--seed", 7, "--top", 1, "--format", "json", "--format", "svg")
    assert balenas("export", copy_of_finished, "--samples", 20, *again, folder=folder).code == 0
    ours = {"architectures.json", "architecture_001.svg", "pareto.json", "pareto.svg"}
    assert {path.name for path in export.iterdir()} == ours | {"architecture_001.png", "architecture_1.py", "notes.txt"}


@pytest.mark.parametrize("place", ["runs/tiny", "runs/tiny/../tiny", "other"])
def test_the_folder_of_a_run_is_not_exported_into(place, copy_of_finished, folder):
    (folder / "other").mkdir()
    (folder / "other" / "manifest.json").write_text("{}")
    before = (copy_of_finished / "architectures.json").read_bytes()
    message = refused("export", copy_of_finished, "--samples", 5, "--output", place, folder=folder)
    assert f"--output {place} is the folder of a run" in message
    assert (copy_of_finished / "architectures.json").read_bytes() == before


def test_other_classes_than_those_of_the_search_are_not_given_its_names(copy_of_finished, folder):
    manifest = json.loads((copy_of_finished / "manifest.json").read_text())
    manifest["data"]["class_names"][3] = "drei"
    (copy_of_finished / "manifest.json").write_text(json.dumps(manifest))
    assert "have other classes than when runs/tiny was searched" in refused("export", "runs/tiny", folder=folder)


def test_onnx_that_is_not_installed_is_reported_before_the_work(copy_of_finished, folder):
    script = folder / "export.py"
    hidden = "import sys\nsys.modules['onnx'] = None\n"
    script.write_text(f"{hidden}from balenas_plugin.cli import main\nsys.exit(main(sys.argv[1:]))\n")
    arguments = ("export", copy_of_finished, "--format", "json", "--format", "onnx")
    ended = balenas(*arguments, folder=folder, script=script)
    assert ended.code == 2
    assert ended.errors.startswith("balenas: writing ONNX needs the package onnx")
    assert not (copy_of_finished / "export").exists()


def test_a_strategy_without_a_posterior_is_named(folder):
    ended = balenas("search", "tiny.yml", "--set", "strategy={name: nni.DARTS}", "--output", "darts", folder=folder)
    assert ended.code == 0, ended.errors
    message = refused("export", "darts", folder=folder)
    assert message.startswith("balenas: darts was searched with nni.DARTS, which leaves no posterior")


def test_onnx_and_drawing(copy_of_finished, folder):
    onnx = pytest.importorskip("onnx", reason="the optional dependency onnx is not installed")
    evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator
    formats = ("--format", "onnx", "--format", "svg", "--format", "json")
    ended = balenas("export", copy_of_finished, "--top", 1, *formats, folder=folder)
    assert ended.code == 0, ended.errors
    model = onnx.load(copy_of_finished / "export" / "architecture_001.onnx")
    onnx.checker.check_model(model)
    reported = {entry.key: entry.value for entry in model.metadata_props}
    recorded = json.loads((copy_of_finished / "manifest.json").read_text())["data"]
    assert json.loads(reported["class_names"]) == recorded["class_names"] == [str(digit) for digit in range(10)]
    assert json.loads(reported["mean"]) == recorded["mean"]
    (record,) = records(copy_of_finished)
    torch.manual_seed(0)
    images = torch.randn(3, 3, 8, 8)
    (found,) = evaluator(model).run(None, {"images": images.numpy()})
    expected = one_hot_outputs(copy_of_finished, record["choices"], images)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-3)
    drawing = (copy_of_finished / "export" / "architecture_001.svg").read_text()
    assert drawing.lstrip().startswith("<?xml")
    assert "</svg>" in drawing


def test_bad_input(copy_of_finished, folder):
    assert "did you mean 'synflow'" in refused("export", copy_of_finished, "--proxy", "sinflow", folder=folder)
    assert "did you mean 'supernet'" in refused("export", copy_of_finished, "--selection", "supernt", folder=folder)
    assert "images must be a whole number" in refused("export", copy_of_finished, "--images", 0, folder=folder)
    assert "did you mean 'enumerate'" in refused(
        "export", copy_of_finished, "--candidates", "enumerated", folder=folder
    )
    assert "n must be a whole number" in refused("export", copy_of_finished, "--samples", 0, folder=folder)
    assert "n must be at most" in refused("export", copy_of_finished, "--samples", 10**20, folder=folder)
    assert "none of the" in refused("export", copy_of_finished, "--samples", 5, "--max-params", 1, folder=folder)
    assert "the folder of a run?" in refused("export", folder, folder=folder)


def test_posterior_of_another_space(copy_of_finished, folder):
    document = json.loads((copy_of_finished / "posterior.json").read_text())
    document["labels"]["other"] = document["labels"].pop("cell/0_1")
    (copy_of_finished / "posterior.json").write_text(json.dumps(document))
    assert "posterior.json is not what the search wrote" in refused("export", copy_of_finished, folder=folder)
    manifest = json.loads((copy_of_finished / "manifest.json").read_text())
    del manifest["sha256"]["posterior.json"], document["sha256"]
    (copy_of_finished / "manifest.json").write_text(json.dumps(manifest))
    (copy_of_finished / "posterior.json").write_text(json.dumps(document))
    assert "posterior is of another space" in refused("export", copy_of_finished, folder=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight * float("nan"), "holds weights that are NaN or infinite"),
        (lambda weight: weight.double(), "holds the weights of another space: 1 of them differ"),
        (lambda weight: weight[:1], "holds the weights of another space: 1 of them differ"),
    ],
    ids=["NaN", "dtype", "shape"],
)
def test_weights_that_are_not_the_searchs(change, message, copy_of_finished, folder):
    """In a checkpoint without a seal, as older versions wrote them."""
    path = copy_of_finished / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    del content["balenas_seal"]
    name = next(key for key, value in content["state_dict"].items() if value.ndim == 4)
    content["state_dict"][name] = change(content["state_dict"][name])
    torch.save(content, path)
    ended = balenas("export", copy_of_finished, "--samples", 2, folder=folder)
    assert (ended.code, ended.output) == (2, "")
    unchecked, reported = ended.errors.splitlines()
    assert "kept no SHA-256" in unchecked
    assert message in reported


def test_an_export_that_is_refused_or_fails_leaves_the_one_before(copy_of_finished, folder):
    formats = ("--samples", 3, "--top", 1, "--format", "python")
    assert balenas("export", copy_of_finished, *formats, folder=folder).code == 0
    before = {path.name: path.read_bytes() for path in (copy_of_finished / "export").iterdir()}
    refused("export", copy_of_finished, "--samples", 5, "--max-params", 1, "--format", "json", folder=folder)
    assert {path.name: path.read_bytes() for path in (copy_of_finished / "export").iterdir()} == before
    script = folder / "export.py"
    script.write_text(
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (3000, -1))\n"
        "from balenas_plugin.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    ended = balenas("export", copy_of_finished, *formats, "--seed", 5, folder=folder, script=script)
    assert ended.code == 2
    assert "cannot write" in ended.errors
    assert {path.name: path.read_bytes() for path in (copy_of_finished / "export").iterdir()} == before


def test_a_space_in_the_working_directory_is_imported_for_a_run_that_was_started_there(folder, tmp_path_factory):
    space = "space={name: 'faulty_spaces:Stopping', stem_out_channels: 2, num_modules_per_stack: 1}"
    options = ("--set", space, "--set", "evaluator.epochs=1", "--set", "diagnostics=false", "--output", "own")
    assert balenas("search", "tiny.yml", *options, folder=folder).code == 0
    assert balenas("export", "own", "--samples", 2, folder=folder).code == 0
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(folder / "own", elsewhere / "own")
    (elsewhere / "faulty_spaces.py").write_text("raise SystemExit('what a stranger wrote has run')")
    assert "was not started here, so its module may be anything. Go where" in refused("export", "own", folder=elsewhere)

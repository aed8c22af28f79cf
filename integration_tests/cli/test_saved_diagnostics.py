"""What diagnostics.jsonl says of a saved run, computed again in other ways from its checkpoint and its posterior."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from balenas_plugin.adapters.nni.run.finished_run import FinishedRun
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.diagnostics import read_log
from balenas_plugin.run_folder import RunFolder

from .commands import balenas

DRAWS = 400


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[Path, dict[str, Any]]:
    """A run whose last epoch has been measured, and the record of that epoch."""
    from .conftest import write_config

    folder = tmp_path_factory.mktemp("saved")
    write_config(folder)
    diagnostics = f"diagnostics={{curvature_every_n_epochs: 3, draws: {DRAWS}}}"
    arguments = ("--set", "strategy.arc_learning_rate=0.2", "--set", diagnostics)
    ended = balenas("search", "tiny.yml", *arguments, folder=folder, BALENAS_DATA=str(data_dir))
    assert ended.code == 0, ended.errors
    run = folder / "runs" / "tiny"
    records = read_log(run / "diagnostics.jsonl").records
    assert ["eigenvalue" in record for record in records] == [False, False, True]
    return run, records[-1]


def test_the_eigenvalue_of_the_saved_supernet(saved: tuple[Path, dict[str, Any]]) -> None:
    """PyTorch's own Hessian-vector products, in double precision, of the network made anew from the checkpoint."""
    run, record = saved
    finished = FinishedRun.load(RunFolder(run))
    config = finished.folder.read_config()
    supernet, (images, labels) = finished.supernet.double().train(), finished.batch
    assert len(images) == config.data.batch_size
    names = {name: p for name, p in supernet.named_parameters() if "_arch_alpha" in name}  # shared ones once
    sizes = [p.numel() for p in names.values()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        alphas = dict(zip(names, flat.split(sizes), strict=True))
        return F.cross_entropy(functional_call(supernet, alphas, (images.double(),)), labels)

    flat = torch.cat([p.detach() for p in names.values()])
    hessian = torch.stack(
        [torch.autograd.functional.hvp(loss, flat, axis)[1] for axis in torch.eye(len(flat)).double()]
    )
    eigenvalues = torch.linalg.eigvals(hessian).real
    assert len(flat) == 30
    assert record["curvature"] == {"method": "exact", "products": 30}
    # the search measured in float32, in which an activation may lie on the other side of a ReLU's kink
    assert record["eigenvalue"] == pytest.approx(float(eigenvalues.max()), rel=1e-2)
    assert record["trace"] == pytest.approx(float(eigenvalues.sum()), rel=1e-2)


def test_entropies_and_probabilities_from_the_saved_posterior(saved: tuple[Path, dict[str, Any]]) -> None:
    run, record = saved
    posterior = Posterior.load(run / "posterior.json")
    precision = torch.cat(list(posterior.precision.values())).double()
    entropy = 0.5 * len(precision) * math.log(2 * math.pi * math.e) - 0.5 * float(precision.log().sum())
    assert record["entropy"] == pytest.approx(entropy, rel=1e-6)
    assert record["sigma"]["mean"] == pytest.approx(float((1 / precision.sqrt()).mean()), rel=1e-6)
    draws, total = 40_000, 0.0
    generator = torch.Generator().manual_seed(0)
    for label, mean in posterior.mean.items():
        noise = torch.randn(draws, len(mean), generator=generator)
        winners = (mean + noise / posterior.precision[label].sqrt()).argmax(-1)
        shares = torch.bincount(winners, minlength=len(mean)) / draws
        assert record["probabilities"][label] == pytest.approx(shares.tolist(), abs=5 * 0.5 / math.sqrt(draws))
        total -= sum(p * math.log(p) for p in record["probabilities"][label] if p > 0)
    assert record["choice_entropy"] == pytest.approx(total / (6 * math.log(5)), rel=1e-4)
    expected = sum(p[1] for p in record["probabilities"].values()) / 6  # skip_connect
    assert record["draws"]["skip_ratio"] == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(6 * DRAWS))


def test_the_ground_truth_is_that_of_the_table(saved: tuple[Path, dict[str, Any]], data_dir: Path) -> None:
    _, record = saved
    table = pq.ParquetFile(data_dir / "nb201_full.parquet").read(["arch_str", "c10_test", "c100_test", "in16_test"])
    row = table["arch_str"].to_pylist().index(record["notation"]["nasbench201"])
    found = record["ground_truth"]
    assert found["unseen_by_search"] is True
    for dataset, column in (("cifar10", "c10_test"), ("cifar100", "c100_test"), ("ImageNet16-120", "in16_test")):
        assert found["accuracy"][dataset] == pytest.approx(table[column][row].as_py(), abs=1e-3)
    assert len(record["draws"]["ground_truth"]["accuracy"]["cifar10"]) == DRAWS
    assert set(record["draws"]["ground_truth"]["accuracy"]["cifar10"]) <= {
        float(f"{value:.6g}") for value in table["c10_test"].to_pylist() if value is not None
    }


def test_the_validation_accuracy_is_that_of_the_saved_supernet(saved: tuple[Path, dict[str, Any]]) -> None:
    from balenas_plugin.data import load_search_data

    run, record = saved
    finished = FinishedRun.load(RunFolder(run))
    half = load_search_data(finished.folder.read_config().data).architecture_set
    images, labels = (torch.stack([torch.as_tensor(half[i][k]) for i in range(len(half))]) for k in (0, 1))
    with torch.no_grad():
        right = (finished.supernet.eval()(images).argmax(1) == labels).float()
    assert record["val_acc"] == pytest.approx(float(right.mean()), abs=1e-6)

"""Two processes over gloo search as one does with the combined batch, and end together however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader
from pytorch_lightning.strategies import FSDPStrategy
from torch import Tensor

from balenas_plugin.adapters.nni.one_shot.distributed import Ranks
from balenas_plugin.adapters.nni.one_shot.loaders import number_of_examples
from balenas_plugin.adapters.nni.strategies.process_guard import require_supported
from balenas_plugin.errors import EvaluatorError

from .ranks import CASES, EXAMPLES
from .searches import classification, prepare, random_data
from .spaces import Layers

ROOT = Path(__file__).resolve().parents[2]

EQUAL = [name for name in CASES if "order" in name or name.startswith("layers")]
UNTIL = ["until the curvature rises", "until the ranking stays"]
ALIKE = [*EQUAL, "noisy", "merged", "pruned in stages", *UNTIL]
"""Cases after which all processes know the same. A curvature is that of the first process's examples, and the random
numbers of a new network come from that process, which has used others than a single one."""

TOGETHER = [*ALIKE, "ranked", "resumed"]


def start(*cases: str, folder: Path) -> subprocess.Popen[str]:
    """Start the program of two processes; Lightning starts the second one from the first."""
    lightnings = ("LOCAL_RANK", "WORLD_SIZE", "PL_GLOBAL_SEED")  # the last would seed the sampler of two processes only
    environment = {name: value for name, value in os.environ.items() if name not in lightnings}
    environment.update(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore", HOME=str(folder))
    return subprocess.Popen(
        [sys.executable, "-m", "integration_tests.nni.ranks", *cases, "2", str(folder)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read(folder: Path, case: str) -> list[dict[str, Any]]:
    """Return what each of the two processes knew at the end."""
    return [torch.load(folder / case.replace(" ", "_") / f"rank{k}.pt", weights_only=False) for k in range(2)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Return case -> what both processes knew; all cases are run by one pair of processes."""
    folder = tmp_path_factory.mktemp("ranks")
    program = start(*TOGETHER, folder=folder)
    output, _ = program.communicate(timeout=250)
    assert program.returncode == 0, output
    return {case: read(folder, case) for case in TOGETHER}


def single(case: str, folder: Path) -> dict[str, Any]:
    """Return what a single process knows in the end."""
    torch.manual_seed(5)
    return CASES[case](1, folder)


def assert_same(one: Any, other: Any, where: str = "", **tolerance: float) -> None:
    """Compare nested records; bit for bit unless a tolerance is given."""
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, where
        if tolerance:
            torch.testing.assert_close(one, other, **tolerance, msg=lambda m: f"{where}: {m}")
        else:
            assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}", **tolerance)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{k}]", **tolerance)
    elif isinstance(one, float) and tolerance:
        assert one == pytest.approx(other, rel=1e-10), where
    else:
        assert one == other, where


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


OWN = ("rank", "next_random", "carried")
EVERYONES = ("val_loss", "val_acc", "val_perplexity", "arch_loss_epoch", "mu_step_epoch")


def metrics_of(record: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in record["metrics"].items() if name in EVERYONES}


@pytest.mark.parametrize("case", EQUAL)
def test_two_processes_equal_one_with_the_combined_batch(case, pair, tmp_path):
    one, (first, _) = single(case, tmp_path), pair[case]
    assert one["dataset_size"] == EXAMPLES
    mine, theirs = without(one, *OWN, "metrics"), without(first, *OWN, "metrics")
    assert_same(mine, theirs, rtol=1e-9, atol=1e-12)
    assert_same(metrics_of(one), metrics_of(first), rtol=1e-6, atol=1e-7)


def test_the_comparison_would_notice_gradients_that_are_not_averaged(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[CASES["ranked"].__module__], "BATCH", 4)
    other = single("first order, M 1", tmp_path)
    with pytest.raises(AssertionError):
        assert_same(other["weights"], pair["first order, M 1"][0]["weights"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", ALIKE)
def test_both_processes_end_with_the_same_posterior_weights_models_and_metrics(case, pair):
    first, second = pair[case]
    assert (first["rank"], second["rank"]) == (0, 1)
    assert_same(without(first, *OWN, "metrics"), without(second, *OWN, "metrics"))
    assert_same(metrics_of(first), metrics_of(second))


def test_each_process_carries_the_hidden_states_of_its_own_rows(pair):
    assert [record["carried"] for record in pair["text, first order"]] == [[0, 2], [1, 3]]


def test_each_process_has_random_numbers_of_its_own(pair):
    first, second = pair["noisy"]
    assert not torch.equal(first["next_random"], second["next_random"])


def test_ranking_is_the_same_in_every_process(pair):
    first, second = pair["ranked"]
    assert first["ranking"] == second["ranking"]
    assert_same(first["example"], second["example"])


def test_resumed_equals_uninterrupted_and_only_the_first_process_writes(pair):
    for record in pair["resumed"]:
        assert_same(without(record["whole"], "files"), without(record["parts"], "files"))
        assert len(record["whole"]["files"]) == 1
        assert len(record["parts"]["files"]) == 1  # the resumed search replaces it
    first, second = pair["resumed"]
    assert_same(first["whole"]["vadam"], second["whole"]["vadam"])
    assert_same(first["whole"]["weights"], second["whole"]["weights"])


def ended(process: int) -> bool:
    """Return whether a process is gone (or a zombie that nobody has asked for yet)."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def assert_both_end(folder: Path, case: str) -> None:
    for rank in range(2):
        process = int((folder / case.replace(" ", "_") / f"pid{rank}").read_text())
        deadline = time.monotonic() + 30
        while not ended(process) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ended(process), f"process {rank} is still there"


@pytest.mark.parametrize(
    ("case", "reported"),
    [
        ("raise", "the second process has had enough"),
        ("first raises", "the second process has had enough"),
        ("vanish", "process 1 of the search was stopped by signal 9"),
    ],
)
def test_a_failure_of_one_process_ends_both(case, reported, tmp_path):
    """cli/test_devices.py has a loss that is not finite, and Ctrl-C."""
    program = start(case, folder=tmp_path)
    output, _ = program.communicate(timeout=250)
    assert program.returncode != 0
    assert reported in output
    assert_both_end(tmp_path, case)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_first_process_stops_every_process(number, tmp_path):
    program = start("slow", folder=tmp_path)
    deadline = time.monotonic() + 250
    while not (tmp_path / "slow" / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    program.send_signal(number)
    program.communicate(timeout=250)
    assert_both_end(tmp_path, "slow")
    assert not list(tmp_path.rglob("*.pt"))  # the search was not over


# -- in this process --------------------------------------------------------------------------------------------------


def test_a_single_process_sends_nothing():
    ranks = Ranks()
    value = torch.tensor([1.0, float("nan")])
    assert not ranks.several
    assert ranks.first(3) == 3
    assert ranks.gather("a") == ["a"]
    assert ranks.mean(value) is not None
    assert ranks.averages([value])[0] is value
    state = torch.get_rng_state()
    ranks.seed_apart()
    assert torch.equal(state, torch.get_rng_state())


def test_dataset_size_is_of_the_whole_set_when_a_sampler_gives_shares():
    examples = random_data(10, mark=1.0)
    sampler = torch.utils.data.DistributedSampler(examples, num_replicas=4, rank=1)
    assert number_of_examples(DataLoader(examples, batch_size=2, sampler=sampler)) == 10


@pytest.mark.parametrize(("strategy", "reported"), [("ddp_spawn", "processes by spawn"), ("ddp_fork", "by fork")])
def test_processes_that_end_with_the_training_are_refused(strategy, reported, tmp_path):
    with pytest.raises(EvaluatorError, match=reported):
        prepare(Layers(), classification(tmp_path, devices=2, strategy=strategy))


def test_a_network_in_parts_is_refused():
    with pytest.raises(EvaluatorError, match=r'strategy="ddp", got FSDPStrategy'):
        require_supported(SimpleNamespace(strategy=FSDPStrategy(), world_size=2))

"""Searches that `test_ranks.py` runs in one process and in two: the same file is the program of both.

    python -m integration_tests.nni.ranks CASE DEVICES FOLDER

writes FOLDER/rank<k>.pt with what the k-th process knows at the end. With two devices Lightning gives each process
every second example of a permutation, in batches of half the size; a single process walks the same permutation.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader, Lightning
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from torch import Tensor, nn
from torch.utils.data import DistributedSampler, TensorDataset

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.run.tasks.language_model import LanguageModelModule
from balenas_plugin.data.text import ARCHITECTURE, WEIGHTS, TextLoader, TextStreams
from balenas_plugin.search_spaces.darts_rnn.supernet import RecurrentSupernet
from balenas_plugin.selection import ProxySelection

from .searches import QUIET, random_data, search
from .spaces import CLASSES, Convolutions, FactoryCell, Layers

EXAMPLES, BATCH = 32, 8


class Noisy(ModelSpace):
    """Batch-norm, and dropout in one of two candidates."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.op = LayerChoice({"dropout": nn.Dropout(0.5), "linear": nn.Linear(8, 8)}, label="op")
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.op(self.stem(x)))


class Merged(Convolutions):
    """Kernels that are merged, with batch-norms behind them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(-1, 1, 2, 4))


class Partly(Layers):
    """A space with a layer that a single example uses, so one process of two, and a layer that none uses."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(8, 8)
        self.sometimes = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        using = x[:, 1] > 100  # marked below
        if not using.any():
            return super().forward(x)
        return super().forward(torch.where(using.unsqueeze(1), self.sometimes(x / 100), x))


def data(mark: float, seed: int, *, marked: bool) -> TensorDataset:
    """Return random inputs in float64, of which the first may be marked."""
    x, y = random_data(EXAMPLES, mark=mark, seed=seed).tensors
    if marked:
        x[0, 1] = 200
    return TensorDataset(x.double(), y)


def loader(examples: TensorDataset, devices: int) -> DataLoader:
    """Return a loader whose batches, those of all processes taken together, do not depend on how many there are."""
    if devices > 1:
        return DataLoader(examples, batch_size=BATCH // devices, shuffle=True)
    return DataLoader(examples, batch_size=BATCH, sampler=DistributedSampler(examples, num_replicas=1, rank=0))


def evaluator(devices: int, folder: Path, *, epochs: int = 2, **more: Any) -> Classification:
    """Return an evaluator on one or two CPU processes."""
    marked = more.pop("marked", False)
    given = {
        "num_classes": CLASSES,
        "learning_rate": 0.1,
        "optimizer": torch.optim.SGD,
        "max_epochs": epochs,
        "train_dataloaders": loader(data(1.0, 0, marked=marked), devices),
        "val_dataloaders": loader(data(-1.0, 1, marked=marked), devices),
        "default_root_dir": folder,
        "devices": devices,
        "strategy": "ddp" if devices > 1 else "auto",
        "precision": "64-true",
        **QUIET,
        **more,
    }
    return Classification(**given)


def known(strategy: BaLeNAS) -> dict[str, Any]:
    """Return everything that has to be the same in every process."""
    module = strategy.oneshot_module
    trainer = module.trainer
    return {
        "weights": {name: value.detach().clone() for name, value in strategy.supernet.state_dict().items()},
        "vadam": module.distribution.optimizer.state_dict(),
        "edits": None if strategy.schedule is None else strategy.schedule.state_dict()["log"],
        "dataset_size": module.distribution.optimizer.dataset_size,
        "metrics": {name: value.detach().clone() for name, value in trainer.callback_metrics.items()},
        "models": [model.sample for model in strategy.list_models(limit=4)],
        "next_random": torch.rand(1),
        "rank": trainer.global_rank,
    }


def searched(space: type[ModelSpace], **options: Any) -> Callable[[int, Path], dict[str, Any]]:
    """Return a case: search with these options."""

    def run(devices: int, folder: Path) -> dict[str, Any]:
        more = {key: options[key] for key in ("marked", "epochs") if key in options}
        given = {key: value for key, value in options.items() if key not in more}
        return known(search(space(), evaluator(devices, folder, **more), arc_learning_rate=0.1, **given))

    return run


def ranked(devices: int, folder: Path) -> dict[str, Any]:
    """Rank with a proxy, on the batch that the search kept."""
    strategy = search(
        Layers(),
        evaluator(devices, folder, epochs=1, precision=32, **_float_loaders(devices)),
        selection=ProxySelection(n=8, proxy="grad_norm"),
    )
    return {
        "ranking": [(r.choices, r.scores) for r in strategy.rank()],
        "example": strategy.oneshot_module.example.pair(),
    }


def language_model(devices: int, folder: Path) -> dict[str, Any]:
    """Search a recurrent cell on a text whose lengths are random; each process carries the states of its own rows."""
    space = RecurrentSupernet(3, num_labels=7, slowness=0.1, **dict.fromkeys(DROPOUTS, 0.0))
    space.cell.norm = nn.Identity()  # batch-norm would see each process's own rows
    words = [torch.randint(7, (4 * length,), generator=torch.Generator().manual_seed(length)) for length in (40, 9)]
    weights, architecture = (TextStreams(text, rows=4, bptt=6) for text in words)
    module = LanguageModelModule(
        make_optimizer=partial(torch.optim.SGD, lr=0.5), schedule={"name": "constant"}, num_classes=7
    )
    trainer = evaluator(devices, folder).trainer
    loaders = (TextLoader(weights, name=WEIGHTS, lengths="normal", seed=1), TextLoader(architecture, name=ARCHITECTURE))
    text = Lightning(module, trainer, *loaders)
    found = known(search(space, text, arc_learning_rate=0.1, num_mc_samples=2, gradient_clip_val=0.25))
    states = module.states.by_text[WEIGHTS]
    return {**found, "carried": states[max(states)].abs().sum(1).ne(0).nonzero().flatten().tolist()}


DROPOUTS = ("dropout", "hidden_dropout", "input_dropout", "embedding_dropout")


def _float_loaders(devices: int) -> dict[str, Any]:
    return {
        "train_dataloaders": loader(random_data(EXAMPLES, mark=1.0), devices),
        "val_dataloaders": loader(random_data(EXAMPLES, mark=-1.0, seed=1), devices),
    }


def resumed(devices: int, folder: Path) -> dict[str, Any]:
    """Search three epochs; search two, and the third from the checkpoint."""
    results = {}
    for name, stops in (("whole", (3,)), ("parts", (2, 3))):
        path = None
        for epochs in stops:
            torch.manual_seed(3)
            strategy = BaLeNAS(num_mc_samples=2, weight_step_alpha="sample", arc_learning_rate=0.1)
            space = Noisy()
            strategy.initialize(
                # not in float64: Lightning loads a checkpoint before it makes the network double
                RawFormatModelSpace(
                    space,
                    evaluator(devices, folder / name, epochs=epochs, precision=32, **_float_loaders(devices)),
                ),
                SequentialExecutionEngine(),
            )
            if path is not None:
                torch.manual_seed(99)  # what the checkpoint does not bring back would differ
                strategy.load_state_dict({"ckpt_path": path})
            strategy.run()
            path = strategy.state_dict()["ckpt_path"]
        results[name] = known(strategy)
        results[name]["files"] = sorted(str(p.relative_to(folder)) for p in (folder / name).rglob("last.ckpt"))
    return results


def failing(how: str) -> Callable[[int, Path], dict[str, Any]]:
    """Return a case in which the second process fails in its third training step."""

    def run(devices: int, folder: Path) -> dict[str, Any]:
        given = evaluator(devices, folder)
        rank = int(os.environ.get("LOCAL_RANK", 0))
        (folder / f"pid{rank}").write_text(str(os.getpid()))
        step, calls = given.module.training_step, 0

        def broken(batch: Any, batch_idx: int) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3 and (rank == 1 or how == "first"):
                if how == "raise" or (how == "first" and rank == 0):
                    raise RuntimeError("the second process has had enough")
                if how == "vanish":
                    os.kill(os.getpid(), 9)
            if how == "slow":
                (folder / "begun").touch()
                time.sleep(0.05)
            return step(batch, batch_idx)

        given.module.training_step = broken
        epochs = 200 if how == "slow" else 2
        given.trainer.fit_loop.max_epochs = epochs
        return known(search(Layers(), given, num_mc_samples=1))

    return run


CASES: dict[str, Callable[[int, Path], dict[str, Any]]] = {
    "first order, M 1": searched(Layers, num_mc_samples=1),
    "first order, M 3": searched(Layers, num_mc_samples=3),
    "first order, Newton, at a draw, clipped": searched(
        Layers, num_mc_samples=2, update="newton", weight_step_alpha="sample", gradient_clip_val=0.05
    ),
    "second order, M 1": searched(Layers, num_mc_samples=1, order="second"),
    "second order, M 3": searched(Layers, num_mc_samples=3, order="second"),
    "second order, one-sided": searched(Layers, num_mc_samples=2, order="second", finite_difference="one-sided"),
    "first order, antithetic": searched(Layers, num_mc_samples=2, antithetic=True),
    "layers trained under attack": searched(Layers, num_mc_samples=1, perturbation="sdarts-adv"),
    "layers of which some are dropped": searched(
        Layers,
        num_mc_samples=1,
        weight_step_alpha="sample",
        levels=1,
        perturbation={"name": "operation-dropout", "rate": 0.3},
    ),
    "layers on a part of the channels, of weighed edges": searched(
        FactoryCell, num_mc_samples=2, mixed_op={"name": "partial-channels", "k": 2, "edge_normalization": True}
    ),
    "pruned in stages": searched(Layers, num_mc_samples=1, epochs=3, schedule="p-darts"),
    "layers widened in stages": searched(
        FactoryCell,
        num_mc_samples=1,
        epochs=4,
        mixed_op={"name": "partial-channels", "k": 4},
        schedule={"name": "drnas-progressive", "channels": [4, 2]},
    ),
    "until the curvature rises": searched(
        Layers,
        num_mc_samples=1,
        epochs=4,
        schedule={"name": "darts-es", "every": 1, "window": 1, "delta": 1, "start": 0, "factor": 1.0001},
    ),
    "until the ranking stays": searched(
        Layers, num_mc_samples=1, epochs=4, schedule={"name": "darts-plus", "criterion": "ranking", "window": 1}
    ),
    "layers that not every process uses": searched(Partly, num_mc_samples=2, marked=True),
    "layers that not every process uses, second order": searched(Partly, num_mc_samples=2, marked=True, order="second"),
    "text, first order": language_model,
    "noisy": searched(Noisy, num_mc_samples=2),
    "merged": searched(Merged, num_mc_samples=1, mixed_op="merged-convolutions"),
    "ranked": ranked,
    "resumed": resumed,
    "raise": failing("raise"),
    "first raises": failing("first"),
    "vanish": failing("vanish"),
    "slow": failing("slow"),
}


def main() -> None:
    """Run the cases named in the arguments, all in these processes."""
    *cases, devices, folder = sys.argv[1:]
    torch.set_num_threads(1)
    for case in cases:
        place = Path(folder, case.replace(" ", "_"))
        place.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(5)
        found = CASES[case](int(devices), place)
        rank = int(os.environ.get("LOCAL_RANK", 0))
        torch.save(found, place / f"rank{rank}.pt")


if __name__ == "__main__":
    main()

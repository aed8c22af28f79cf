"""A script's search writes nothing into the working directory that nobody has asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.strategies import working_files


class Space(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice({"linear": nn.Linear(4, 4), "skip": nn.Identity()}, label="layer")
        self.head = nn.Linear(4, 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.layer(values))


def searched(**options: Any) -> Classification:
    """Search as a script does that says nothing of files but `options`; return its evaluator."""
    data = TensorDataset(torch.randn(16, 4), torch.randint(2, (16,)))
    loaders = {name: DataLoader(data, batch_size=8) for name in ("train_dataloaders", "val_dataloaders")}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    evaluator = Classification(**loaders, **quiet, **options, num_classes=2)
    strategy = BaLeNAS(num_mc_samples=1)
    strategy.initialize(RawFormatModelSpace.from_model(Space(), evaluator), SequentialExecutionEngine())
    strategy.run()
    return evaluator


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NNI's folder of experiments, beside an empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(working_files, "NNI_HOME_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("options", [{}, {"logger": False}])
def test_files_go_to_nnis_experiments(home: Path, options: dict[str, Any]) -> None:
    evaluator = searched(**options)
    assert list(Path().iterdir()) == []
    (folder,) = (home / "balenas_checkpoints").iterdir()
    assert (folder / "last.ckpt").exists()
    assert (folder / "lightning_logs").exists() == (not options)
    assert Path(evaluator.trainer.default_root_dir) == Path.cwd()  # for what the script trains afterwards
    assert all(Path(logger.save_dir) == Path.cwd() for logger in evaluator.trainer.loggers)


def test_what_the_user_gave_is_used(home: Path, tmp_path: Path) -> None:
    searched(default_root_dir=str(tmp_path / "mine"))
    assert list(Path().iterdir()) == []
    assert not home.exists()
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"balenas_checkpoints", "lightning_logs"}

"""What users give an evaluator: hooks that change batches, state in checkpoints, batches and loaders of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from balenas_plugin.errors import EvaluatorError, OptionError

from .plain import Task, in_order, searched, trainer
from .searches import TRAIN_MARK, VAL_MARK, random_data


class Zeroed(Task):
    """Normalises on the device, to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, float]] = set()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [0 * batch[0], batch[1]]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.add(("train", float(batch[0].abs().max())))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.add(("val", float(batch[0].abs().max())))


def test_both_halves_the_validation_and_a_ranking_see_transferred_batches(tmp_path):
    task = Zeroed()
    strategy = searched(Lightning(task, trainer(tmp_path), **in_order()), selection="supernet")
    assert task.seen == {("train", 0.0), ("val", 0.0)}
    assert float(strategy.oneshot_module.example.pair()[0].abs().max()) == 0
    (images, _), *_ = strategy._trained_supernet(None).architecture_batches(8, seed=0)
    assert float(images.abs().max()) == 0


class Remembers(Task):
    """Keeps a state of its own, and leaves a parameter out of checkpoints."""

    strict_loading = False
    seen: Any = 0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert set(outputs) == {"loss"}
        self.seen = self.seen + len(batch["train"][1])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seen"] = self.seen
        del checkpoint["state_dict"]["_model.head.bias"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seen = checkpoint["seen"]
        assert "_model.head.weight" in checkpoint["state_dict"]


def test_the_modules_own_state_is_resumed(tmp_path):
    path = searched(Lightning(Remembers(), trainer(tmp_path), **in_order())).state_dict()["ckpt_path"]
    saved = torch.load(path, weights_only=True)
    assert "training_module._model.head.weight" in saved["state_dict"]
    assert "training_module._model.head.bias" not in saved["state_dict"]
    task = Remembers()
    searched(Lightning(task, trainer(tmp_path, max_epochs=2), **in_order()), path)
    assert task.seen == 2 * 20


def test_state_that_could_not_be_read_back_is_refused(tmp_path):
    task = Remembers()
    task.seen = torch.distributions.Normal(0.0, 1.0)
    task.on_train_batch_end = lambda *_: None
    with pytest.raises(EvaluatorError, match="could not be resumed: 'seen' in its checkpoint holds objects"):
        searched(Lightning(task, trainer(tmp_path), **in_order()))


def test_several_validation_loaders_are_all_validated_on(tmp_path):
    class Several(Task):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[int] = []

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            self.seen.append(dataloader_idx)

    data = in_order()
    other = DataLoader(random_data(8, mark=VAL_MARK), batch_size=8)
    task = Several()
    options = {**data, "val_dataloaders": [data["val_dataloaders"], other]}
    strategy = searched(Lightning(task, trainer(tmp_path, num_sanity_val_steps=0), **options))
    assert task.seen == [0, 0, 1]
    assert (
        strategy.oneshot_module.distribution.optimizer.dataset_size == 16
    )  # the first one's, on which the architecture is learned
    with pytest.raises(EvaluatorError, match=r"2 val_dataloaders, but Task.validation_step takes no dataloader_idx"):
        searched(Lightning(Task(), trainer(tmp_path), **options))


class Graph:
    """A batch of the user's own, whose size nobody can determine."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def to(self, device: Any, **options: Any) -> Graph:
        return Graph(self.x.to(device), self.y.to(device))


class OnGraphs(Task):
    def training_step(self, batch: Graph, batch_idx: int) -> Any:
        return super().training_step((batch.x, batch.y), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_x", batch.x.mean())


def test_batches_are_whatever_the_evaluator_takes(tmp_path):
    def graphs(count: int, mark: float) -> DataLoader:
        collate = torch.utils.data.default_collate
        return DataLoader(random_data(count, mark=mark), batch_size=8, collate_fn=lambda items: Graph(*collate(items)))

    data = {"train_dataloaders": graphs(16, TRAIN_MARK), "val_dataloaders": graphs(16, VAL_MARK)}
    strategy = searched(Lightning(OnGraphs(), trainer(tmp_path), **data))
    assert {"arch_loss", "val_x"} <= set(strategy.oneshot_module.trainer.callback_metrics)
    evaluator = Lightning(OnGraphs(), trainer(tmp_path, max_epochs=2), **data)
    with pytest.raises(EvaluatorError, match=r"got objects of Graph"):  # before the warm-up
        searched(evaluator, mc_batches="split", warmup_epochs=1)


class ByHand(Task):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class OwnLog(Task):
    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        super().log(f"my_{name}", *args, **kwargs)


class Legacy(Task):
    def validation_epoch_end(self, outputs: Any) -> None: ...


class FromIterator(Task):
    def training_step(self, dataloader_iter: Any) -> Any: ...  # type: ignore[override]


class NoClosure(Task):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
        optimizer.step()


class Reentrant(Task):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs = batch[0].clone().requires_grad_()
        return checkpoint(self.model, inputs, use_reentrant=True).sum()


def two_optimizers(module: Any) -> Any:
    return [torch.optim.SGD(module.parameters(), lr=0.1), torch.optim.SGD(module.parameters(), lr=0.1)]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (ByHand(), "ByHand sets automatic_optimization to False"),
        (OwnLog(), "OwnLog defines log, which a search cannot call"),
        (Legacy(), "Legacy defines validation_epoch_end.* use on_validation_epoch_end"),
        (FromIterator(), "FromIterator.training_step takes dataloader_iter"),
        (NoClosure(), "optimizer_step of NoClosure must call"),
        (Task(two_optimizers), "configure_optimizers of Task returns 2 optimizers"),
        (Task(lambda module: None), "configure_optimizers of Task returns 0 optimizers"),
    ],
)
def test_modules_that_only_plain_lightning_can_serve(task, message, tmp_path):
    with pytest.raises(EvaluatorError, match=message):
        searched(Lightning(task, trainer(tmp_path), **in_order()))


def test_a_network_in_a_reentrant_checkpoint_is_searched(tmp_path):
    strategy = searched(Lightning(Reentrant(), trainer(tmp_path), **in_order()))
    assert {state["step"] for state in strategy.oneshot_module.distribution.optimizer.state.values()} == {3}


def test_loaders_that_are_combined_already(tmp_path):
    combined = pl.utilities.combined_loader.CombinedLoader(list(in_order().values()), "min_size")
    with pytest.raises(EvaluatorError, match="not a CombinedLoader"):
        searched(Lightning(Task(), trainer(tmp_path), **{**in_order(), "train_dataloaders": combined}))


def test_callbacks_that_a_search_cannot_run(tmp_path):
    callback = GradientAccumulationScheduler({1: 2})
    with pytest.raises(EvaluatorError, match=r"GradientAccumulationScheduler, .* accumulate_grad_batches instead"):
        searched(Lightning(Task(), trainer(tmp_path, callbacks=[callback]), **in_order()))


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"gradient_clip_val": 1.0}, {"gradient_clip_val": 2.0}, "gradient_clip_val=1.0, but the trainer 2.0"),
        ({"validate_every_n_epochs": 2}, {"check_val_every_n_epoch": 3}, "but the trainer check_val_every_n_epoch=3"),
    ],
)
def test_a_trainer_that_contradicts_the_strategy(options, given, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        searched(Lightning(Task(), trainer(tmp_path, **given), **in_order()), **options)

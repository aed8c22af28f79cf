"""Bad input: one clear error each, as early as it can be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nni
import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, ParametrizedModule
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.one_shot.search_options import warmup_of
from balenas_plugin.errors import EvaluatorError, NonFiniteLossError, OptionError, SpaceError
from balenas_plugin.presets import get_preset

from .searches import QUIET, TRAIN_MARK, VAL_MARK, classification, loaders, prepare, random_data, search
from .spaces import Layers, NothingToSearch


def test_repr():
    assert repr(BaLeNAS()) == "BaLeNAS()"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_mc_samples", 0, "whole number of at least 1, got 0"),
        ("num_mc_samples", 1.5, "whole number of at least 1, got 1.5"),
        ("num_mc_samples", True, "whole number of at least 1, got True"),
        ("order", "frist", "one of first, second, got 'frist'; did you mean 'first'"),
        ("order", 2, "one of first, second, got 2"),
        ("update", "newtn", "one of vadam, newton, got 'newtn'; did you mean 'newton'"),
        ("arc_learning_rate", 0, "positive number, got 0"),
        ("arc_learning_rate", "0.1", "positive number, got '0.1'"),
        ("arc_learning_rate", float("nan"), "positive number, got nan"),
        ("betas", 0.9, r"2 numbers in \[0, 1\), got 0.9"),
        ("betas", (0.9, 1.0), r"2 numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ("prior_precision", -1.0, "positive number, got -1.0"),
        ("initial_precision", None, "positive number, got None"),
        ("dataset_size", 0, "positive number, got 0"),
        ("dataset_size", "all", "positive number, got 'all'"),
        ("weight_step_alpha", "men", "one of mean, sample, uniform, got 'men'; did you mean 'mean'"),
        ("warmup_epochs", -1, "whole number of at least 0 or a number between 0 and 1, both excluded, got -1"),
        ("warmup_epochs", 1.5, "both excluded, got 1.5"),
        ("gradient_clip_val", -5.0, "positive number, got -5.0"),
        ("log_prob_every_n_step", 0, "whole number of at least 1, got 0"),
        ("validate_every_n_epochs", -2, "whole number of at least 0, got -2"),
        ("validate_every_n_epochs", None, "whole number of at least 0, got None"),
    ],
)
def test_option_out_of_range(option, value, message):
    with pytest.raises(OptionError, match=f"{option} must be .*{message}"):
        BaLeNAS(**{option: value})


@pytest.mark.parametrize("warmup_epochs", [2, 3])
def test_a_warm_up_without_an_epoch_to_search_in(warmup_epochs, tmp_path):
    with pytest.raises(OptionError, match=f"less than the number of epochs, 2, .* got {warmup_epochs}. Lower it"):
        prepare(Layers(), classification(tmp_path, max_epochs=2), warmup_epochs=warmup_epochs)


def test_a_warm_up_of_a_search_without_end(tmp_path):
    endless = classification(tmp_path, max_epochs=-1)
    prepare(Layers(), endless, warmup_epochs=2)
    with pytest.raises(OptionError, match="a share of all epochs, but the search has no number of epochs"):
        prepare(Layers(), endless, warmup_epochs=0.3)


def test_a_share_of_the_epochs_warms_up():
    assert [warmup_of(get_preset("PCDARTS").options["warmup_epochs"], n) for n in (50, 10, 4, 1)] == [15, 3, 1, 0]


def test_initial_precision_below_the_priors():
    with pytest.raises(OptionError, match=r"initial_precision \(0.5\) is below prior_precision \(1\)"):
        BaLeNAS(initial_precision=0.5)


def test_unknown_option():
    with pytest.raises(OptionError, match=r"num_mc_sample.*did you mean 'num_mc_samples'"):
        BaLeNAS(num_mc_sample=3)


@pytest.mark.parametrize("penalty", ["flops", {"scale": 1.0}, {"profilr": None, "baseline": 1.0}])
def test_penalty_that_is_none(penalty):
    with pytest.raises(OptionError, match="penalty"):
        BaLeNAS(penalty=penalty)


def test_space_with_nothing_to_search(tmp_path):
    with pytest.raises(SpaceError, match="NothingToSearch has no choices, so there is nothing to search"):
        search(NothingToSearch(), classification(tmp_path))


class Unknown(ParametrizedModule):
    """An operation that NNI has no supernet version of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Dangling(ModelSpace):
    """A value choice in such an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.op = Unknown(nni.choice("width", [2, 3]))

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def test_dangling_mutables_are_nnis_type_error(tmp_path):
    with pytest.raises(TypeError, match="dangling mutables and is not supported"):
        search(Dangling(), classification(tmp_path))


class ChoiceOfTheSpaceItself(ModelSpace):
    """A choice that belongs to no module, which no supernet learns."""

    def __init__(self) -> None:
        super().__init__()
        self.add_mutable(nni.choice("loose", [1, 2]))
        self.op = LayerChoice([nn.Linear(8, 3), nn.Linear(8, 3, bias=False)], label="op")

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def test_choice_that_no_module_holds(tmp_path):
    with pytest.raises(SpaceError, match="loose"):
        prepare(ChoiceOfTheSpaceItself(), classification(tmp_path))


@pytest.mark.parametrize("given", ["train_dataloaders", "val_dataloaders"])
def test_evaluator_with_one_loader(given, tmp_path):
    missing = ({"train_dataloaders", "val_dataloaders"} - {given}).pop()
    with pytest.raises(EvaluatorError, match=f"the evaluator has no {missing}"):
        search(Layers(), classification(tmp_path, **{given: loaders()[given]}))


def test_datamodule_without_validation_data(tmp_path):
    data = pl.LightningDataModule.from_datasets(random_data(16, mark=TRAIN_MARK), batch_size=8)
    with pytest.raises(Exception, match="`val_dataloader` must be implemented"):
        search(Layers(), classification(tmp_path, datamodule=data))


@pytest.mark.parametrize(("small", "which"), [("train", "training"), ("val", "validation")])
def test_set_smaller_than_a_batch(small, which, tmp_path):
    with pytest.raises(EvaluatorError, match=f"the {which} set has 4 examples, fewer than one batch of 8"):
        search(Layers(), classification(tmp_path, **loaders(**{small: 4})))


def test_small_validation_set_of_a_datamodule(tmp_path):
    train, val = random_data(16, mark=TRAIN_MARK), random_data(4, mark=VAL_MARK)
    data = pl.LightningDataModule.from_datasets(train, val, batch_size=8)
    with pytest.raises(EvaluatorError, match="the validation set has 4 examples, fewer than one batch of 8"):
        search(Layers(), classification(tmp_path, datamodule=data))


class Endless(IterableDataset):
    """Validation examples without a number."""

    def __iter__(self) -> Any:
        return iter(random_data(16, mark=VAL_MARK))


def test_validation_set_of_unknown_size_needs_dataset_size(tmp_path):
    data = {**loaders(), "val_dataloaders": DataLoader(Endless(), batch_size=8)}
    with pytest.raises(EvaluatorError, match="number N of its examples is unknown: pass dataset_size"):
        search(Layers(), classification(tmp_path, **data))
    strategy = search(Layers(), classification(tmp_path, **data), dataset_size=16, validate_every_n_epochs=0)
    assert strategy.oneshot_module.distribution.optimizer.dataset_size == 16


def test_validation_on_a_set_of_unknown_size(tmp_path):
    data = {**loaders(), "val_dataloaders": DataLoader(Endless(), batch_size=8)}
    search(Layers(), classification(tmp_path, **data), dataset_size=16)


def test_evaluator_that_is_not_lightnings_is_nnis_type_error():
    with pytest.raises(TypeError, match="lightning evaluator"):
        prepare(Layers(), FunctionalEvaluator(lambda model: 0.0))


def test_precision_that_scales_losses(tmp_path, monkeypatch):
    strategy = prepare(Layers(), classification(tmp_path))
    plugin = strategy._mutated_model_space.evaluator.trainer.precision_plugin
    monkeypatch.setattr(plugin, "scaler", object(), raising=False)
    with pytest.raises(EvaluatorError, match=r"16-mixed.*bf16-mixed or 32"):
        strategy.run()


def test_second_order_with_several_learning_rates(tmp_path):
    class TwoRates(Plain):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            first, *rest = self.parameters()
            return torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": rest, "lr": 0.2}], lr=0.1)

    with pytest.raises(EvaluatorError, match='order="second" unrolls one weight step with one lr'):
        search(Layers(), lightning(TwoRates(), tmp_path), order="second")
    search(Layers(), lightning(TwoRates(), tmp_path), order="first")


def test_posterior_and_models_before_the_search(tmp_path):
    with pytest.raises(RuntimeError, match="needs to be run"):
        list(BaLeNAS().list_models())
    strategy = prepare(Layers(), classification(tmp_path))
    with pytest.raises(EvaluatorError, match="the search has not started"):
        strategy.posterior  # noqa: B018
    with pytest.raises(EvaluatorError, match="the search has not started"):
        list(strategy.list_models())


class Plain(LightningModule):
    """The least a user's module can be."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TurnsNaN(Plain):
    """Its loss is NaN the n-th time it is computed."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.left -= 1
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.left == 0 else loss


class NaNGradient(TurnsNaN):
    """Its loss is finite, but the n-th one has a gradient that is not."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.left -= 1
        loss = Plain.training_step(self, batch, batch_idx)
        zero = (loss - loss.detach()).abs()
        return loss + zero.sqrt() * 0 if self.left == 0 else loss


def lightning(module: LightningModule, folder: Path) -> Lightning:
    return Lightning(module, Trainer(default_root_dir=folder, **QUIET, max_epochs=2), **loaders())


def last_checkpoint(strategy: BaLeNAS) -> dict[str, Any]:
    return torch.load(strategy.state_dict()["ckpt_path"], weights_only=True)


@pytest.mark.parametrize(
    ("n", "which", "epoch", "step"),
    [(9, "architecture", 1, 0), (11, "architecture", 1, 0), (12, "weight", 1, 0), (16, "weight", 1, 1)],
)
def test_nan_loss_names_the_step_and_leaves_the_last_checkpoint_whole(n, which, epoch, step, tmp_path):
    """Iterations of three architecture draws and a weight step, two to an epoch."""
    strategy = prepare(Layers(), lightning(TurnsNaN(n), tmp_path), num_mc_samples=3)
    where = f"loss of the {which} step became nan in epoch {epoch}, step {step} of"
    with pytest.raises(NonFiniteLossError, match=where):
        strategy.run()
    checkpoint = last_checkpoint(strategy)
    assert checkpoint["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())
    assert all(torch.isfinite(alpha).all() for alpha in strategy.oneshot_module.arch_parameters())


def test_nan_loss_of_the_second_order_step(tmp_path):
    strategy = prepare(Layers(), lightning(TurnsNaN(1), tmp_path), num_mc_samples=1, order="second")
    with pytest.raises(NonFiniteLossError, match="loss of the architecture step became nan in epoch 0, step 0"):
        strategy.run()


@pytest.mark.parametrize(("broken", "step"), [("train", "weight"), ("val", "architecture")])
def test_nan_in_the_data_is_not_blamed_on_the_learning_rate(broken, step, tmp_path):
    """Also in the batch of the second order's unrolled step, whose own loss is not looked at."""
    data = {name: random_data(16, mark=1.0) for name in ("train", "val")}
    data[broken].tensors[0][3, :2] = float("nan")
    data[broken].tensors[0][5, 0] = float("inf")
    for options in ({}, {"order": "second"}):
        evaluator = classification(tmp_path, **loaders(**data, batch_size=16))
        with pytest.raises(NonFiniteLossError) as raised:
            search(Layers(), evaluator, num_mc_samples=1, **options)
        message = str(raised.value)
        which = "architecture" if options else step
        assert f"loss of the {which} step became nan in epoch 0, step 0" in message
        shape = tuple(data[broken].tensors[0].shape)
        assert (
            f"The data are to blame, not a learning rate: batch['{broken}'][0] of shape {shape} has 2 NaN and "
            f"1 infinite of {data[broken].tensors[0].numel()} values, in 2 of 16 examples. Repair" in message
        )
        assert "Lower" not in message


def test_nan_that_the_loss_hides_is_warned_of_at_the_first_batches(caplog, tmp_path):
    class Masking(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step((batch[0].nan_to_num(), batch[1]), batch_idx)

    data = random_data(16, mark=1.0)
    data.tensors[0][3, 0] = float("nan")
    trainer = Trainer(default_root_dir=tmp_path, **QUIET, max_epochs=1)
    evaluator = Lightning(Masking(), trainer, **loaders(train=data, val=16, batch_size=16))
    search(Layers(), evaluator, num_mc_samples=1)
    assert caplog.text.count("the data hold values that are not finite: batch['train'][0]") == 1


def test_nan_weights_at_the_end_of_an_epoch_do_not_replace_a_whole_checkpoint(tmp_path):
    strategy = prepare(Layers(), lightning(NaNGradient(16), tmp_path), num_mc_samples=3)
    with pytest.raises(NonFiniteLossError):
        strategy.run()
    checkpoint = last_checkpoint(strategy)
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())

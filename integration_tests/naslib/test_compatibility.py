"""The breaks of NASLib: each is coped with where it is, and nothing is changed where it is not."""

from __future__ import annotations

import collections
import collections.abc
import sys

import pytest
from naslib import optimizers, utils
from naslib.defaults.trainer import Trainer
from naslib.optimizers import DARTSOptimizer

from balenas_plugin.adapters.naslib import compatibility

from .searches import SPACES, Config, adapted, batch, config


def test_iterable_is_restored_for_that_error_only(monkeypatch):
    monkeypatch.delattr(collections, "Iterable", raising=False)
    assert not compatibility._restore_iterable(ImportError("cannot import name 'DARTS' from 'naslib.optimizers'"))
    assert not hasattr(collections, "Iterable")
    assert compatibility._restore_iterable(ImportError("cannot import name 'Iterable' from 'collections'"))
    assert collections.Iterable is collections.abc.Iterable


def test_turtle_is_stood_in_for_without_tkinter_only(monkeypatch):
    monkeypatch.delitem(sys.modules, "turtle", raising=False)
    assert not compatibility._stand_in_for_turtle(ModuleNotFoundError(name="fvcore"))
    assert "turtle" not in sys.modules
    assert compatibility._stand_in_for_turtle(ModuleNotFoundError(name="_tkinter"))
    assert sys.modules.pop("turtle").position is None


def test_trainer_does_without_save_arch_weights():
    given = config()
    Trainer(adapted(), given)
    assert given["save_arch_weights"] is False
    given = Config({**config(), "save_arch_weights": True})
    Trainer(adapted(), given)
    assert given["save_arch_weights"] is True


def test_a_mended_trainer_is_left_alone(monkeypatch):
    original = Trainer.__init__.__wrapped__
    monkeypatch.setattr(Trainer, "__init__", original)
    monkeypatch.setattr(utils, "load_default_config", lambda: {"save_arch_weights": False})
    compatibility._let_trainer_do_without_save_arch_weights()
    assert Trainer.__init__ is original


def test_naslibs_own_optimizers_are_left_alone_by_the_import():
    assert optimizers.DARTSOptimizer is DARTSOptimizer
    assert not issubclass(DARTSOptimizer, compatibility.Repairs)
    assert "balenas" not in DARTSOptimizer.adapt_search_space.__module__


def test_repaired_for_the_runner(monkeypatch):
    for name in ("DARTSOptimizer", "DrNASOptimizer", "GDASOptimizer"):
        monkeypatch.setattr(optimizers, name, getattr(optimizers, name))
        with pytest.raises(TypeError):
            getattr(optimizers, name)(config()).adapt_search_space(SPACES["nb201"](), dataset_api=None)
    compatibility.repair_for_runner()
    for name in ("DARTSOptimizer", "DrNASOptimizer", "GDASOptimizer"):
        optimizer = getattr(optimizers, name)(config())
        optimizer.adapt_search_space(SPACES["nb201"](), dataset_api=None)
        optimizer.before_training()
        assert optimizer.get_model_size() > 0
        assert isinstance(optimizer, DARTSOptimizer)
    repaired = optimizers.DARTSOptimizer
    compatibility.repair_for_runner()
    assert optimizers.DARTSOptimizer is repaired


def test_an_optimizer_that_takes_the_runners_call_is_left_alone(monkeypatch):
    class Mended(DARTSOptimizer):
        def adapt_search_space(self, search_space, dataset=None, scope=None, dataset_api=None):
            pass

    monkeypatch.setattr(optimizers, "DARTSOptimizer", Mended)
    compatibility.repair_for_runner(("DARTSOptimizer",))
    assert optimizers.DARTSOptimizer is Mended


def test_auxiliary_output_does_not_stop_the_copy():
    optimizer = adapted("nb301")
    optimizer.step(batch(1), batch(2))
    with pytest.raises(RuntimeError, match="deepcopy"):
        DARTSOptimizer.get_final_architecture(optimizer)
    assert optimizer.get_final_architecture() is not None


def test_arguments_are_bound_when_the_script_starts(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["balenas", "naslib", "script.py"])
    monkeypatch.setattr(utils.parse_args, "__defaults__", utils.parse_args.__defaults__)
    compatibility.bind_arguments(["--resume", "seed", "3"])
    assert sys.argv == ["balenas", "--resume", "seed", "3"]
    found = utils.parse_args()
    assert found.resume
    assert found.opts == ["seed", "3"]


def test_runner_resumes_when_asked_to(monkeypatch):
    seen = []
    monkeypatch.setattr(Trainer, "search", lambda self, resume_from="": seen.append(resume_from))
    monkeypatch.setattr(utils, "get_last_checkpoint", lambda config: "last.pth")
    compatibility.let_runners_resume()
    compatibility.let_runners_resume()
    for resume, given in ((True, ""), (False, ""), (True, "other.pth")):
        Trainer(adapted(), Config({**config(), "resume": resume})).search(resume_from=given)
    assert seen == ["last.pth", "", "other.pth"]

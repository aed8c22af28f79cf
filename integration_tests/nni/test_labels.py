"""Labels: one alpha and one draw for each, in an order that depends on nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.mutable import label_scope
from nni.nas.nn.pytorch import Cell, LayerChoice, ModelSpace
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell, DifferentiableMixedLayer
from torch import Tensor, nn

from balenas_plugin.adapters.nni.supernets.parameters import choice_names

from .searches import Spy, classification, prepare, search
from .spaces import CASES, ConvolutionValues, Layers, NestedLayers, SharedCells, SharedLabel


def test_modules_with_one_label_hold_one_alpha(tmp_path):
    strategy = prepare(SharedLabel(), classification(tmp_path))
    choices = [m for m in strategy.supernet.modules() if isinstance(m, DifferentiableMixedLayer)]
    assert len(choices) == 3
    assert len({id(m._arch_alpha) for m in choices if m.label == "shared"}) == 1
    assert list(strategy.oneshot_module.named_arch_parameters()) == ["a_head", "shared"]


def test_modules_with_one_label_see_one_draw(tmp_path):
    """In every evaluation of the loss both modules use the same numbers, and a new evaluation uses others."""
    strategy = prepare(SharedLabel(), classification(tmp_path), num_mc_samples=3, weight_step_alpha="sample")
    first, second = strategy.supernet.first, strategy.supernet.second
    seen: list[tuple[Tensor, Tensor]] = []
    Spy(strategy, lambda batch: seen.append(tuple(m._softmax(m._arch_alpha).detach().clone() for m in (first, second))))
    strategy.run()
    assert all(torch.equal(one, other) for one, other in seen)
    assert len({float(one[0]) for one, _ in seen}) == len(seen) == 8


def test_cells_with_one_label_hold_one_alpha_per_edge(tmp_path):
    strategy = prepare(SharedCells(), classification(tmp_path))
    first, second = (m for m in strategy.supernet.modules() if isinstance(m, DifferentiableMixedCell))
    assert all(second._arch_alpha[edge] is alpha for edge, alpha in first._arch_alpha.items())
    labels = ["cell/2_0", "cell/2_1", "cell/3_0", "cell/3_1", "cell/3_2"]
    assert list(strategy.oneshot_module.named_arch_parameters()) == labels


def test_value_choice_shared_by_several_layers_is_one_alpha(tmp_path):
    strategy = prepare(ConvolutionValues(), classification(tmp_path))
    space = strategy.supernet
    channels = [layer._arch_alpha["channels"] for layer in (space.conv, space.norm, space.head)]
    assert channels[0] is channels[1] is channels[2]
    assert list(strategy.oneshot_module.named_arch_parameters()) == ["channels", "kernel"]


@pytest.mark.parametrize("name", CASES)
def test_architecture_parameters_are_in_label_order(name, tmp_path):
    module = prepare(CASES[name].space(), classification(tmp_path)).oneshot_module
    labels = list(module.named_arch_parameters())
    assert labels == sorted(labels)
    assert [id(alpha) for alpha in module.arch_parameters()] == [id(a) for a in module.named_arch_parameters().values()]


def test_choice_names_are_those_of_the_space(tmp_path):
    names = {name: choice_names(prepare(space(), classification(tmp_path)).supernet) for name, space in SPACES.items()}
    assert names["layers"] == {"act": ("relu", "none"), "op": ("0", "1", "2")}
    assert names["nested"] == {"inner": ("wide", "thin"), "outer": ("0", "1")}
    assert names["values"] == {"channels": ("2", "4"), "kernel": ("1", "3")}
    assert names["cells"]["cell/2_0"] == ("linear", "identity", "scaled", "(edge not chosen)")


SPACES = {"layers": Layers, "nested": NestedLayers, "values": ConvolutionValues, "cells": SharedCells}


class CellBesideChoice(ModelSpace):
    """A LayerChoice whose label is that of a cell's edge: two alphas, in either order of the modules."""

    def __init__(self, cell_first: bool) -> None:
        super().__init__()
        for cell in (cell_first, not cell_first):
            if cell:
                self.cell = Cell([nn.Linear(8, 8), nn.Identity()], num_nodes=1, merge_op="loose_end", label="cell")
            else:
                with label_scope("cell"):
                    self.choice = LayerChoice([nn.Linear(8, 8), nn.Identity()], label="1_0")
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.choice(self.cell(x)))


@pytest.mark.parametrize(
    "cell_first",
    [
        False,
        True,
    ],
)
def test_choice_and_cell_edge_with_one_label_are_two_choices(cell_first, tmp_path):
    strategy = search(CellBesideChoice(cell_first), classification(tmp_path))
    assert len(strategy.posterior.labels) == 2
    assert len(list(strategy.iterate_samples())) == 4


IN_A_FRESH_PROCESS = """
import json, sys, torch
{imports}
from integration_tests.nni.spaces import SharedCells, Layers
from nni.nas.evaluator.pytorch import ClassificationModule
strategies = [getattr(strategy, name) for name in ("DARTS", "GumbelDARTS", "Proxyless", "ENAS", "RandomOneShot")]
torch.manual_seed(0)
search = BaLeNAS()
space = search.mutate_model(SharedCells())
module = search.configure_oneshot_module(ClassificationModule(num_classes=3))
module.set_model(space)
vadam = module.configure_architecture_optimizers()
ordered = [p for group in vadam.param_groups for p in group["params"]]
print(json.dumps({{
    "labels": list(module.named_arch_parameters()),
    "means": [p.tolist() for p in ordered],
    "vadam": [[k for k, a in module.named_arch_parameters().items() if a is p] for p in ordered],
    "darts": type(strategy.DARTS().mutate_model(Layers()).op).__name__,
    "real": [s.__module__ for s in strategies],
    "subclass": issubclass(BaLeNAS, strategy.DARTS),
}}))
"""
OURS, NNIS = "from balenas_plugin import BaLeNAS", "from nni.nas import strategy"


def in_a_fresh_process(hash_seed: str, *imports: str) -> dict[str, Any]:
    """Run the script above with these imports, in this order."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    script = IN_A_FRESH_PROCESS.format(imports="\n".join(imports))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_fresh_processes_agree_whatever_the_hash_seed_and_the_order_of_imports():
    ours_first, nnis_first = in_a_fresh_process("1", OURS, NNIS), in_a_fresh_process("2", NNIS, OURS)
    assert ours_first == nnis_first
    assert ours_first["vadam"] == [[label] for label in ours_first["labels"]]
    assert ours_first["darts"] == "DifferentiableMixedLayer"
    assert set(ours_first["real"]) == {"nni.nas.oneshot.pytorch.strategy"}
    assert ours_first["subclass"]

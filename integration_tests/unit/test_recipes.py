"""Recipes: the numbers of the papers, and files of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from balenas_plugin.errors import OptionError
from balenas_plugin.training import Recipe, list_recipes, load_recipe


def learning_rates(recipe: Recipe, epochs: list[int], steps: int = 2) -> list[float]:
    return [recipe.learning_rate(steps * epoch, steps_per_epoch=steps) for epoch in epochs]


def test_the_numbers_of_the_papers() -> None:
    """SPACES.md, section 2."""
    darts = load_recipe("darts-cifar")
    assert (darts.epochs, darts.batch_size, darts.gradient_clip_val, darts.cutout) == (600, 96, 5, 16)
    assert (darts.auxiliary, darts.augment, darts.network.given) == (0.4, "crop_flip", {"channels": 36, "cells": 20})
    assert darts.optimizer == {"name": "SGD", "lr": 0.025, "momentum": 0.9, "weight_decay": 3e-4}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.025)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for epoch in range(600):
        assert learning_rates(darts, [epoch])[0] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        cosine.step()
    assert [darts.drop_path_at(epoch) for epoch in (0, 300, 599)] == [0, 0.1, pytest.approx(0.2 * 599 / 600)]
    assert (load_recipe("pc-darts").drop_path, load_recipe("p-darts").drop_path) == (0.3, 0.3)
    large = load_recipe("darts-imagenet")
    assert (large.batch_size, large.label_smoothing, large.auxiliary, large.drop_path) == (1024, 0.1, 0.4, 0)
    assert learning_rates(large, [0, 4, 5, 244, 245, 249]) == pytest.approx(
        [0.1, 0.5 * 241 / 245, 0.5 * 240 / 245, 0.5 / 245, 0.5 * 5 / (245 * 5), 0.5 / (245 * 5)]
    )
    assert learning_rates(load_recipe("p-darts-imagenet"), [0, 1]) == pytest.approx([0.1, 0.1 * 244 / 245])
    assert learning_rates(load_recipe("darts-imagenet-original"), [0, 2]) == pytest.approx([0.1, 0.1 * 0.97**2])
    assert large.optimizer == {"name": "SGD", "lr": 0.5, "momentum": 0.9, "weight_decay": 3e-5}
    assert (large.network.given, large.epochs) == ({"channels": 48, "cells": 14}, 250)
    nb101 = load_recipe("nas-bench-101")
    assert nb101.learning_rate(108, steps_per_epoch=2) == pytest.approx(0.1)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "mine.yml"
    own.write_text("base: darts-cifar\nepochs: 7\noptimizer: {lr: 0.1}\nschedule: {warmup_epochs: 2}\n")
    recipe = load_recipe(own, ["network.channels=5"])
    assert (recipe.name, recipe.epochs, recipe.cutout, recipe.network.channels) == ("mine", 7, 16, 5)
    assert recipe.optimizer["weight_decay"] == 3e-4
    assert learning_rates(recipe, [0])[0] == pytest.approx(0.05)
    with pytest.raises(OptionError, match="did you mean 'darts-cifar'"):
        load_recipe("darts-cifr")
    with pytest.raises(OptionError, match="has no option 'epoch'; did you mean 'epochs'"):
        load_recipe("small", ["epoch=3"])
    own.write_text(f"base: {own}")
    with pytest.raises(OptionError, match="in a circle"):
        load_recipe(own)
    assert {"small", "darts-cifar", "nas-bench-201", "user-module"} <= set(list_recipes())

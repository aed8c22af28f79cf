"""The README's example runs as it is printed, but for its size."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from nni.nas.evaluator.pytorch import DataLoader
from torch.utils.data import TensorDataset

README = Path(__file__).resolve().parents[2] / "README.md"


def test_readme_example(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    small = {"max_epochs=50": "max_epochs=1, enable_progress_bar=False", "NasBench201()": "NasBench201(2, 1)"}
    for printed, smaller in small.items():
        assert example.count(printed) == 1
        example = example.replace(printed, smaller)
    data = TensorDataset(torch.randn(32, 3, 8, 8), torch.randint(10, (32,)))
    names = {"train": DataLoader(data, batch_size=16), "val": DataLoader(data, batch_size=16)}
    exec(example, names)
    names["experiment"].stop()
    output = capsys.readouterr().out
    assert output.count("'cell/0_1'") == 4  # three architectures, and the winning probabilities
    assert len(names["experiment"].strategy.posterior.win_probability()) == 6

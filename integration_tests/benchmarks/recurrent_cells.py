"""Search recurrent cells on a text, and compare what is found with random cells that are trained alike.

    python integration_tests/benchmarks/recurrent_cells.py --root FOLDER --strategies DARTS BaLeNAS --random 3

Prints the validation perplexity of each cell, trained from scratch on its own, and what the search itself took. FOLDER
has train.txt and valid.txt (Penn Treebank's form); without it the text is that of configs/rnn.yml.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from balenas_plugin.adapters.nni.run.config_run import quiet, run_search
from balenas_plugin.adapters.nni.run.tasks.language_model import LanguageModelModule, text_loaders
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.config import SearchConfig
from balenas_plugin.data.text import TextConfig, TextData, load_text_data
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces.darts_rnn import DARTS_RNN, Dropouts, build_language_model, genotype_of

SMALL_DROPOUTS = {"output": 0.2, "hidden": 0.1, "input": 0.2, "embedding": 0.0, "word": 0.0}
OPTIMIZER = {"name": "SGD", "lr": 10.0, "weight_decay": 5e-7}
CLIP = 0.25


def searched(strategy: str, data: TextConfig, *, size: int, epochs: int, rate: float, seed: int) -> Architecture:
    """Return the cell that a search finds."""
    names = {"output": "dropout"} | {k: f"{k}_dropout" for k in ("hidden", "input", "embedding", "word")}
    space = {"name": "darts-rnn", "size": size, **{names[k]: p for k, p in SMALL_DROPOUTS.items()}}
    config = SearchConfig(
        name="search",
        seed=seed,
        space=space,
        data=data,
        strategy={"name": strategy, "arc_learning_rate": rate, "warmup_epochs": 1, "gradient_clip_val": CLIP},
        evaluator={"epochs": epochs, "optimizer": OPTIMIZER, "schedule": "constant", "enable_progress_bar": False},
        diagnostics={"enabled": False},
        threads=1,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        return dict(run_search(config, RunFolder(Path(folder)), resume=False, show_progress=False)[0]["choices"])


def random_cells(count: int, seed: int) -> list[Architecture]:
    """Return cells in which every edge and activation of a node is as probable as any other."""
    torch.manual_seed(seed)
    flat = {label: torch.zeros(len(values)) for label, values in DARTS_RNN.choices.items()}
    posterior = Posterior(flat, {label: torch.ones_like(row) for label, row in flat.items()})
    architectures = Architectures(DARTS_RNN.decisions, posterior)
    return [architectures.discretise(posterior.sample()) for _ in range(count)]


def perplexity(cell: Architecture, data: TextData, config: TextConfig, *, size: int, epochs: int, seed: int) -> float:
    """Return the lowest validation perplexity of an epoch of a cell that is trained from scratch."""
    torch.manual_seed(seed)
    network = build_language_model(
        genotype_of(cell), size=size, vocabulary=data.num_classes, dropouts=Dropouts(**SMALL_DROPOUTS)
    )
    make = partial(torch.optim.SGD, lr=OPTIMIZER["lr"], weight_decay=OPTIMIZER["weight_decay"])
    module = LanguageModelModule(make_optimizer=make, schedule={"name": "constant"}, num_classes=data.num_classes)
    module.set_model(network)
    found: list[float] = []
    keep = pl.Callback()
    keep.on_validation_epoch_end = lambda trainer, _: found.append(float(trainer.callback_metrics["val_perplexity"]))
    trainer = pl.Trainer(
        max_epochs=epochs,
        gradient_clip_val=CLIP,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[keep],
    )
    trainer.fit(module, *text_loaders(config, data, seed=seed, device=torch.device("cpu")))
    return min(found)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root")
    parser.add_argument("--strategies", nargs="+", default=["DARTS", "BaLeNAS"])
    parser.add_argument("--random", type=int, default=3, help="random cells")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--bptt", type=int, default=10)
    parser.add_argument("--vocabulary", type=int, default=2000)
    parser.add_argument("--limit", type=int, default=60_000, help="words of each text")
    parser.add_argument("--search-epochs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6, help="of each cell")
    parser.add_argument("--rate", type=float, default=0.02, help="arc_learning_rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    config = TextConfig(
        name="text" if options.root else "python_docs",
        root=options.root,
        batch_size=options.batch,
        bptt=options.bptt,
        vocabulary=options.vocabulary,
        limit=options.limit,
    )
    data = load_text_data(config)
    print(" ".join(f"{title}: {text}" for title, text in data.summary().items()), flush=True)
    sizes = {"size": options.size, "seed": options.seed}
    cells = {}
    for strategy in options.strategies:
        start = time.process_time()
        cells[strategy] = searched(strategy, config, epochs=options.search_epochs, rate=options.rate, **sizes)
        print(f"{strategy}: searched in {time.process_time() - start:.0f} CPU seconds", flush=True)
    cells |= {f"random {k}": cell for k, cell in enumerate(random_cells(options.random, options.seed))}
    for name, cell in cells.items():
        found = perplexity(cell, data, config, epochs=options.epochs, **sizes)
        print(f"{name:<10}{found:8.1f}  {genotype_of(cell)}", flush=True)


if __name__ == "__main__":
    main()

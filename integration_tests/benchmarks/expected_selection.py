"""What BaLeNAS-TF picks on average over draws and initialisations of SynFlow, after every epoch of a search.

    python integration_tests/benchmarks/expected_selection.py RUN_DIR [RUN_DIR ...]
    python integration_tests/benchmarks/expected_selection.py RUN_DIR --seeds 8 --scores scores.json

One pick owes much to the initialisation that SynFlow looks at, so a single pick a seed says little about a setting.
This prints, for each epoch in which the posterior has moved, the accuracy of the argmax of mu and the mean accuracy of
SynFlow's picks out of n draws, and out of the n most probable architectures (percent, CIFAR-10 validation: settings may
be chosen by it), from the posteriors of diagnostics.jsonl.

Scored are the architectures with four convolutions or more, of which three are 3x3: SynFlow's pick wherever one of
them is drawn, as far as seen. Where none is, the set has no pick, which is said. Scores are kept in a file; the first
call takes about a minute for each initialisation.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from tqdm import tqdm

from balenas_plugin.bayes import Posterior
from balenas_plugin.benchmarks import open_benchmark
from balenas_plugin.files import write_text_atomically
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces.nasbench201 import EDGES, OPERATIONS, NasBench201Space, format_string, to_nni

KEYS = ("logits", "precision")  # in a line of diagnostics.jsonl
COLUMN = ("cifar10-valid", "valid_accuracy")
CONV_1X1, CONV_3X3 = OPERATIONS.index("nor_conv_1x1"), OPERATIONS.index("nor_conv_3x3")


def with_convolutions():
    """Return the operations on every edge of the architectures that SynFlow may prefer."""
    every = itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))
    return [a for a in every if a.count(CONV_3X3) >= 3 and a.count(CONV_3X3) + a.count(CONV_1X1) >= 4]


def synflow(architectures, space, seeds, path):
    """Return the scores, shape (seeds, architectures), from the file as far as it has them."""
    known = json.loads(path.read_text()) if path.exists() else {}
    for seed in range(seeds):
        if str(seed) not in known:
            networks = space.networks(seed)
            bar = tqdm(architectures, desc=f"SynFlow, seed {seed}", mininterval=5)
            known[str(seed)] = [networks.fast_rank_value("synflow", to_nni(operations)) for operations in bar]
            write_text_atomically(path, json.dumps(known))
    return torch.tensor([known[str(seed)] for seed in range(seeds)], dtype=torch.float64)


class Worth(NamedTuple):
    """Accuracies of the argmax, of the picks out of draws and out of the most probable; `empty` sets had no pick."""

    argmax: float
    drawn: float
    empty: float
    probable: float


class Picks:
    """SynFlow's picks of many draws, and what they are worth."""

    def __init__(self, benchmark, scores, architectures, options):
        self.truth = lambda operations: benchmark.query(format_string(operations), *COLUMN)
        self.scores, self.options = scores, options
        self.accuracies = [self.truth(a) for a in architectures]
        self.index = torch.full((len(OPERATIONS),) * len(EDGES), -1)
        for i, operations in enumerate(architectures):
            self.index[operations] = i

    def of(self, record):
        """Return what the posterior of an epoch is worth: see `Worth`."""
        labels = to_nni([0] * len(EDGES))
        mean, precision = ({label: torch.tensor(record[key][label]) for label in labels} for key in KEYS)
        edges = [(mean[label], precision[label].rsqrt()) for label in labels]
        picks, empty = [], 0
        for repetition in range(self.options.repetitions):
            noise = torch.Generator().manual_seed(repetition)
            drawn = [(m + s * torch.randn(self.options.n, len(m), generator=noise)).argmax(-1) for m, s in edges]
            found = self._picks(self.index[tuple(drawn)].unique())
            picks += found
            empty += not found
        log_win = Posterior(mean, precision).log_win_probability()
        log_probability = sum(  # of every architecture, one dimension an edge
            log_win[label].reshape([-1 if i == k else 1 for i in range(len(EDGES))]) for k, label in enumerate(labels)
        )
        probable = self._picks(self.index.flatten()[log_probability.flatten().topk(self.options.n).indices])
        argmax = self.truth([int(m.argmax()) for m, _ in edges])
        return Worth(argmax, _mean(picks), empty / self.options.repetitions, _mean(probable))

    def _picks(self, indices):
        """Return the accuracy of each initialisation's pick; nothing where there is no architecture to score."""
        indices = indices[indices >= 0]
        return [self.accuracies[indices[scores[indices].argmax()]] for scores in self.scores] if len(indices) else []


def _mean(values):
    return mean(values) if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--table", type=Path, help="another NAS-Bench-201 table, or its folder")
    parser.add_argument("--scores", type=Path, default=Path("synflow-scores.json"), help="file that keeps the scores")
    parser.add_argument("--seeds", type=int, default=4, help="initialisations (4)")
    parser.add_argument("--n", type=int, default=1000, help="draws, or most probable architectures, of a pick (1000)")
    parser.add_argument("--repetitions", type=int, default=16, help="sets of draws (16)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    architectures = with_convolutions()
    scores = synflow(architectures, NasBench201Space(), options.seeds, options.scores)
    picks = Picks(open_benchmark(options.table), scores, architectures, options)
    for run in options.runs:
        print(run)
        lines = (json.loads(line) for line in RunFolder(run).diagnostics.read_text(encoding="utf-8").splitlines())
        for record in lines:
            if "epoch" in record and max(max(map(abs, logits)) for logits in record["logits"].values()) > 0.01:
                worth = picks.of(record)
                rest = f" ({worth.empty:.0%} of the sets without)" if worth.empty else ""
                found = f"argmax {worth.argmax:5.2f}   picks of draws {worth.drawn:5.2f}{rest}"
                print(f"  epoch {record['epoch']:3}   {found}   of the most probable {worth.probable:5.2f}")


if __name__ == "__main__":
    main()

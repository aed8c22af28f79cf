"""Which rule picks best out of the draws of a posterior: each criterion alone, averaged by rank, with the probability.

    python integration_tests/benchmarks/selection_study.py RUN_DIR [RUN_DIR ...] --table ../shared/data
    python integration_tests/benchmarks/selection_study.py RUN_DIR --proxies synflow naswot --scores scores.json

Every run gives one set of 1,000 draws, and its first, second, ... hundred give sets of 100, over which a rule is
averaged. Accuracies are percent, on validation images, looked up afterwards: rules may be chosen by them, never by test
accuracies. Networks that proxies score are those of the benchmark (C 16, N 5), on a batch of the first run's images.
Scores are kept in a file with the seconds that each took, so that several runs share them and another call goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from balenas_plugin.bayes import SeededNoise
from balenas_plugin.bayes.decisions import Architectures
from balenas_plugin.benchmarks import open_benchmark
from balenas_plugin.data import load_search_data
from balenas_plugin.export import NasBench201Space, ProxySelection
from balenas_plugin.export.ranking import best_first
from balenas_plugin.export.supernet import SUPERNET_ACCURACY, SupernetAccuracy
from balenas_plugin.files import write_text_atomically
from balenas_plugin.proxies import rank_value
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces.nasbench201 import EDGES, NODES, OPERATIONS, format_string, from_nni

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from balenas_plugin.adapters.nni.export import FinishedRun

COLUMNS = {
    "C10": ("cifar10-valid", "valid_accuracy"),
    "C100": ("cifar100", "valid_accuracy"),
    "IN16": ("ImageNet16-120", "valid_accuracy"),
}
SETS = (100, 1000)
AGGREGATES = (
    ("synflow", "naswot"),
    ("synflow", "naswot", "snip"),
    ("synflow", SUPERNET_ACCURACY),
    ("naswot", SUPERNET_ACCURACY),
    ("synflow", "naswot", SUPERNET_ACCURACY),
)


class Scores:
    """Criterion and architecture -> value and seconds, in a file."""

    def __init__(self, path):
        self.path = path
        self.known = json.loads(path.read_text()) if path is not None and path.exists() else {}

    def __call__(self, group, criterion, name, compute):
        values = self.known.setdefault(f"{group} {criterion}", {})
        if name not in values:
            started = time.perf_counter()
            value = compute()
            values[name] = [value, time.perf_counter() - started]
        return values[name]

    def save(self):
        if self.path is not None:
            write_text_atomically(self.path, json.dumps(self.known))


@dataclass(frozen=True)
class Rule:
    """How to pick: by some criteria, perhaps with the probability."""

    criteria: tuple[str, ...]
    with_probability: bool = False

    def __str__(self):
        return " + ".join([*self.criteria, *(["log-probability"] if self.with_probability else [])])


def rules_of(criteria):
    """Return every rule that the criteria allow."""
    combinations = [(name,) for name in criteria] + [a for a in AGGREGATES if set(a) <= set(criteria)]
    return [Rule(c, p) for c in combinations for p in (False, True)]


class Study:
    """One run's draws, with the truth and the scores of each."""

    def __init__(self, folder, benchmark, scores, options):
        self.run = FinishedRun.load(RunFolder(folder))
        self.space = NasBench201Space(channels=options.channels, cells_per_stage=options.cells)
        self.architectures = Architectures(self.space.decisions, self.run.posterior)
        noise = SeededNoise(options.seed)
        drawn = [self.architectures.discretise(self.run.posterior.sample(noise)) for _ in range(max(SETS))]
        self.draws = [self.name(sample) for sample in drawn]
        self.samples = dict(zip(self.draws, drawn, strict=True))
        self.log_probability = {n: self.architectures.describe(s).log_probability for n, s in self.samples.items()}
        self.truth = lambda name: {column: benchmark.query(name, *where) for column, where in COLUMNS.items()}
        self.values = {c: self.score(c, scores, options, folder.name) for c in (*options.proxies, *options.supernet)}

    def name(self, sample):
        return self.space.notations(sample)["nasbench201"]

    def without_dead_ends(self, sample):
        """Return the name of the architecture without edges that nothing uses: the supernet's accuracy is the same."""
        indices, used = dict(zip(EDGES, from_nni(sample), strict=True)), {NODES[-1]}
        for edge in reversed(EDGES):
            if edge.target in used and OPERATIONS[indices[edge]] != "none":
                used.add(edge.source)
        none = OPERATIONS.index("none")
        return format_string([index if edge.target in used else none for edge, index in indices.items()])

    def score(self, criterion, scores, options, title):
        """Return architecture -> (value, seconds)."""
        if criterion == SUPERNET_ACCURACY:
            weights = hashlib.sha256((self.run.folder.checkpoints / "last.ckpt").read_bytes()).hexdigest()[:12]
            group = f"{weights} {options.images} {options.batch_norm_batches} {options.seed}"
            accuracy = SupernetAccuracy(
                self.run.trained_supernet(),
                images=options.images,
                batch_norm_batches=options.batch_norm_batches,
                seed=options.seed,
            )
            compute, name_of = accuracy, self.without_dead_ends
        else:
            name_of = self.name
            group = f"C{options.channels} N{options.cells} seed {options.seed}"
            networks = self.space.networks(options.seed)

            def compute(sample):
                fast = networks.fast_rank_value(criterion, sample)
                return rank_value(criterion, networks.build(sample), *options.batch) if fast is None else fast

        found = {}
        for name, sample in tqdm(self.samples.items(), desc=f"{title} {criterion}", mininterval=5):
            found[name] = scores(group, criterion, name_of(sample), lambda sample=sample: compute(sample))
            if len(found) % 20 == 0:
                scores.save()
        scores.save()
        return found

    def pick(self, rule, names):
        """Return the rule's pick among distinct architectures."""
        values = torch.tensor([[[self.values[c][name][0]] for c in rule.criteria] for name in names])
        probability = torch.tensor([self.log_probability[name] for name in names], dtype=torch.float64)
        selection = ProxySelection(include_probability=rule.with_probability)
        return names[best_first(values.double(), probability, selection)[0]]

    def results(self, rules):
        """Return rule -> column -> percent, averaged over the sets of each size."""
        argmax = self.name(self.architectures.discretise(self.run.posterior.mean))
        probable = self.name(next(self.architectures.iterate()).sample)
        found = {"argmax of mu": self.truth(argmax), "most probable": self.truth(probable)}
        for size in SETS:
            sets = [self.draws[k : k + size] for k in range(0, len(self.draws), size)]
            distinct = [list(dict.fromkeys(drawn)) for drawn in sets]
            found[f"{size}: mean of draws"] = average([self.truth(name) for drawn in sets for name in drawn])
            for rule in rules:
                found[f"{size}: {rule}"] = average([self.truth(self.pick(rule, names)) for names in distinct])
            best = [max(names, key=lambda name: self.truth(name)["C10"]) for names in distinct]
            found[f"{size}: best by C10 (oracle)"] = average([self.truth(name) for name in best])
        return found

    def correlations(self):
        """Return criterion -> Spearman's correlation with the C10 accuracy over the distinct draws."""
        truth = [self.truth(name)["C10"] for name in self.samples]
        by_criterion = {c: [values[name][0] for name in self.samples] for c, values in self.values.items()}
        by_criterion["log-probability"] = [self.log_probability[name] for name in self.samples]
        return {criterion: spearmanr(values, truth).statistic for criterion, values in by_criterion.items()}

    def seconds(self):
        """Return criterion -> mean seconds per architecture."""
        return {c: mean(seconds for _, seconds in values.values()) for c, values in self.values.items()}


def average(found):
    return {column: mean(entry[column] for entry in found) for column in COLUMNS}


def spread(values):
    return f"{mean(values):6.2f} +- {stdev(values):4.2f}" if len(values) > 1 else f"{values[0]:6.2f}        "


def batch_of(folder):
    """Return 64 training images of the architecture half at 32 x 32 with their labels."""
    config = RunFolder(folder).read_config().data
    batch = load_search_data(replace(config, image_size=32)).architecture_set.__getitems__(list(range(64)))
    return batch.images, batch.labels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="finished searches of NAS-Bench-201")
    parser.add_argument("--table", type=Path, help="NAS-Bench-201 table or its folder (default: BALENAS_DATA)")
    parser.add_argument(
        "--proxies",
        nargs="+",
        default=["synflow", "naswot", "snip", "grasp", "grad_norm", "fisher", "jacob_cov", "params", "flops"],
    )
    parser.add_argument("--no-supernet", action="store_true", help="leave the supernet's accuracy out")
    parser.add_argument("--images", type=int, default=ProxySelection.images, help="for the supernet's accuracy")
    parser.add_argument("--batch-norm-batches", type=int, default=ProxySelection.batch_norm_batches)
    parser.add_argument("--seed", type=int, default=0, help="of draws, initialisations and images")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--scores", type=Path, help="file that keeps scores")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    options.supernet = [] if options.no_supernet else [SUPERNET_ACCURACY]
    torch.set_num_threads(1)
    options.batch = batch_of(options.runs[0])
    benchmark, scores = open_benchmark(options.table), Scores(options.scores)
    studies = [Study(folder, benchmark, scores, options) for folder in options.runs]
    rules = rules_of([*options.proxies, *options.supernet])
    by_run = [study.results(rules) for study in studies]
    print(f"\nvalidation accuracy of the pick, mean +- sd over {len(studies)} runs")
    print(f"{'rule':<60}" + "".join(f"{column:>16}" for column in COLUMNS))
    for rule in by_run[0]:
        print(f"{rule:<60}" + "".join(f"{spread([r[rule][c] for r in by_run]):>16}" for c in COLUMNS))
    correlations, seconds = [s.correlations() for s in studies], [s.seconds() for s in studies]
    print(f"\n{'criterion':<30}{'Spearman with C10':>20}{'s per architecture':>20}")
    for criterion in correlations[0]:
        cost = mean(s[criterion] for s in seconds) if criterion in seconds[0] else 0.0
        print(f"{criterion:<30}{spread([c[criterion] for c in correlations]):>20}{cost:>20.3f}")
    distinct = {size: mean(len(set(s.draws[:size])) for s in studies) for size in SETS}
    print("distinct: " + ", ".join(f"{found:.0f} of {size}" for size, found in distinct.items()))
    if options.json is not None:
        runs = [
            {"run": str(f), "results": r, "spearman": c, "seconds": s}
            for f, r, c, s in zip(options.runs, by_run, correlations, seconds, strict=True)
        ]
        write_text_atomically(options.json, json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How well a proxy orders NAS-Bench-201, and how much of that is the luck of an initialisation.

    python integration_tests/benchmarks/proxy_correlation.py
    python integration_tests/benchmarks/proxy_correlation.py --proxy naswot --architectures 200
    python integration_tests/benchmarks/proxy_correlation.py --seeds 20 --column cifar10-valid validation_accuracy

Spearman's correlation with an accuracy of the table. With several initialisations also that of means over some of them,
and what the best of 100 random architectures is worth by each of these scores: its mean, and its standard deviation
over initialisations of one set of candidates. Abdelfattah et al. 2021 publish 0.74 for SynFlow over all 15,625
architectures (CIFAR-10 test accuracy).
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor
from tqdm import tqdm

from balenas_plugin.benchmarks import open_benchmark
from balenas_plugin.proxies import rank_value
from balenas_plugin.search_spaces.nasbench201 import NasBench201Space, format_string, to_nni

CANDIDATES, SETS, PARTS = 100, 200, (1, 2, 5, 10, 20)


def values_of(options: argparse.Namespace, chosen: list[tuple[int, ...]]) -> Tensor:
    """Return the proxy's values, shape (initialisations, architectures), float64."""
    torch.manual_seed(options.seed)
    inputs, targets = torch.randn(options.batch_size, 3, 32, 32), torch.randint(0, 10, (options.batch_size,))
    rows = []
    for seed in range(options.seed, options.seed + options.seeds):
        networks = NasBench201Space(channels=options.channels, cells_per_stage=options.cells).networks(seed)
        row = []
        for indices in tqdm(chosen, desc=f"initialisation {seed}"):
            fast = networks.fast_rank_value(options.proxy, to_nni(indices))
            if fast is None:
                fast = rank_value(options.proxy, networks.build(to_nni(indices)), inputs, targets)
            row.append(fast)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="another NAS-Bench-201 table, or its folder")
    parser.add_argument("--column", nargs=2, default=("cifar10", "test_accuracy"), metavar=("DATA_SET", "METRIC"))
    parser.add_argument("--proxy", default="synflow")
    parser.add_argument("--architectures", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=5, help="per stage")
    parser.add_argument("--batch-size", type=int, default=64, help="of random images, for proxies that look at data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="initialisations, from the seed on")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    benchmark = open_benchmark(options.table)
    numbers = random.Random(options.seed).sample(range(5**6), options.architectures)
    chosen = [tuple(number // 5**place % 5 for place in range(6)) for number in numbers]
    accuracies = torch.tensor([benchmark.query(format_string(indices), *options.column) for indices in chosen])
    started = time.process_time()
    values = values_of(options, chosen)
    seconds = time.process_time() - started
    size = f"C {options.channels}, N {options.cells}"
    print(f"{options.proxy}, {len(chosen)} architectures, {size}, {seconds:.0f} s of CPU; against {options.column}")
    sets = torch.stack([torch.randperm(len(chosen))[:CANDIDATES] for _ in range(SETS)])
    print("initialisations  Spearman (std)   pick: accuracy  std over initialisations of a set")
    for part in (p for p in PARTS if p <= options.seeds):
        means = torch.stack([group.mean(0) for group in values.split(part) if len(group) == part])
        found = torch.tensor([spearmanr(mean, accuracies).statistic for mean in means])
        picks = torch.stack([accuracies[sets[k, means[:, sets[k]].argmax(1)]] for k in range(SETS)])
        several = len(means) > 1
        of_rank = f"({found.std():.3f})" if several else "       "
        of_pick = f"{picks.std(1).mean():.2f}" if several else "-"
        print(f"{part:15}  {found.mean():.3f} {of_rank}    {picks.mean():.2f}           {of_pick}")


if __name__ == "__main__":
    main()

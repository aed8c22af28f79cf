"""How well a proxy orders NAS-Bench-201: Spearman's correlation with the true CIFAR-10 test accuracy.

    python integration_tests/benchmarks/proxy_correlation.py
    python integration_tests/benchmarks/proxy_correlation.py --proxy naswot --architectures 200

Abdelfattah et al. 2021 publish 0.74 for SynFlow over all 15,625 architectures.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from balenas_plugin.benchmarks import open_benchmark
from balenas_plugin.proxies import rank_value
from balenas_plugin.search_spaces.nasbench201 import NasBench201Space, format_string, to_nni


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="another NAS-Bench-201 table, or its folder")
    parser.add_argument("--proxy", default="synflow")
    parser.add_argument("--architectures", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=64, help="of random images, for proxies that look at data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    benchmark = open_benchmark(options.table)
    chosen = random.Random(options.seed).sample(range(5**6), options.architectures)
    networks = NasBench201Space().networks(options.seed)
    torch.manual_seed(options.seed)
    inputs, targets = torch.randn(options.batch_size, 3, 32, 32), torch.randint(0, 10, (options.batch_size,))
    values, accuracies = [], []
    started = time.perf_counter()
    for number in tqdm(chosen):
        indices = tuple(number // 5**place % 5 for place in range(6))
        fast = networks.fast_rank_value(options.proxy, to_nni(indices))
        if fast is None:
            fast = rank_value(options.proxy, networks.build(to_nni(indices)), inputs, targets)
        values.append(fast)
        accuracies.append(benchmark.query(format_string(indices), "cifar10", "test_accuracy"))
    seconds = time.perf_counter() - started
    published = "   (published for all 15,625: 0.74)" if options.proxy == "synflow" else ""
    print(f"{options.proxy}, {len(values)} architectures, C 16, N 5, {seconds:.0f} s")
    print(f"Spearman with CIFAR-10 test accuracy: {spearmanr(values, accuracies).statistic:.3f}{published}")


if __name__ == "__main__":
    main()

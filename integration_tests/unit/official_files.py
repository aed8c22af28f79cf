"""NAS-Bench-201's official files in miniature, written with the official package's own classes."""

import collections
import pickle

import numpy as np
import pytest
import torch

from balenas_plugin.search_spaces.nasbench201 import format_string

nas_201_api = pytest.importorskip("nas_201_api", reason="the official package nas-bench-201 is not installed")
from nas_201_api.api_utils import ArchResults, ResultsCount  # noqa: E402 - after its importorskip

DATASETS = {"cifar10-valid": 10, "cifar10": 10, "cifar100": 100, "ImageNet16-120": 120}
IMAGE_SETS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("ori-test", "x-valid", "x-test"),
    "ImageNet16-120": ("ori-test", "x-valid", "x-test"),
}
ARCHITECTURES = [format_string(tuple((number // 5**edge) % 5 for edge in range(6))) for number in range(400)]


def trial(random, dataset, seed, epochs, architecture, *, weights=None, pad=0):
    """Make a trial with the official package's own class; numbers are random, one in each place."""

    def percents(names):
        return {name: float(random.uniform(10, 95)) for name in names}

    arch_config = {"channel": 16, "num_cells": 5, "arch_str": architecture, "class_num": DATASETS[dataset]}
    params = np.float64(random.uniform(0.1, 1.5))  # a NumPy number, as in the published files
    result = ResultsCount(
        dataset, weights, {}, {}, params, float(random.uniform(10, 200)), arch_config, seed, epochs, None
    )
    curve = [percents(range(epochs)) for _ in range(3)]
    result.update_train_info(
        *curve, collections.OrderedDict((epoch, float(random.uniform(5, 9))) for epoch in range(epochs))
    )
    names = [f"{name}@{epoch}" for name in IMAGE_SETS[dataset] for epoch in range(epochs)]
    result.update_eval(percents(names), percents(names), percents(names))
    result.update_latency([np.float64(random.uniform(0.01, 0.02))])
    if pad:
        result.padding = f"{seed} {random.random()}".ljust(pad)
    return result


def schedules(random, index, *, seeds=(777, 888, 999), epochs=(5, 3), weights=None, pad=0):
    """Return what the official file holds of architecture `index`; the long schedule pads its trials with text."""
    full, less = (ArchResults(index, ARCHITECTURES[index]) for _ in range(2))
    (long, short), name = epochs, ARCHITECTURES[index]
    for dataset in DATASETS:
        for seed in seeds:
            full.update(dataset, seed, trial(random, dataset, seed, long, name, weights=weights, pad=pad))
        less.update(dataset, 111, trial(random, dataset, 111, short, name))
    less.update("cifar10-valid", 777, trial(random, "cifar10-valid", 777, short, name))
    return {"full": full.state_dict(), "less": less.state_dict()}


def content_of(infos):
    return {
        "meta_archs": ARCHITECTURES,
        "total_archs": len(ARCHITECTURES),
        "arch2infos": infos,
        "evaluated_indexes": sorted(infos),
    }


def contents():
    """Return six architectures as the official file holds them, with one to three seeds."""
    random = np.random.default_rng(0)
    seeds = [(777, 888, 999), (999, 777), (888,), (777, 888, 999), (777, 999), (777,)]
    return content_of({7 * i: schedules(random, 7 * i, seeds=seeds[i]) for i in range(len(seeds))})


def save_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=4))


SAVERS = {"legacy": save_legacy, "zip": torch.save, "pickle": save_pickle}


def assert_same_numbers(benchmark, api):
    """Compare every number with what the official package answers, through its public methods."""
    compared = 0
    for index in api.evaluated_indexes:
        architecture = api.arch(index)
        for epochs, suffix in ((200, ""), (12, "_e12")):
            for dataset in DATASETS:
                info = api.get_more_info(index, dataset, hp=str(epochs), is_random=False)
                for quantity in ("valid", "test", "valtest"):
                    if f"{quantity}-accuracy" in info:
                        found = benchmark.query(architecture, dataset, f"{quantity}_accuracy{suffix}")
                        assert found == pytest.approx(info[f"{quantity}-accuracy"], rel=1e-12)
                        compared += 1
                if epochs == 200:
                    costs = api.get_cost_info(index, dataset, hp="200")
                    expected = [info["train-all-time"], costs["params"], costs["flops"], costs["latency"]]
                    # both CIFAR-10 data sets share a column of parameters; in this file they differ at random
                    wanted = ["train_seconds", "params_mb", "flops_m", "latency_s"]
                    if dataset == "cifar10":
                        expected, wanted = [expected[0], expected[3]], ["train_seconds", "latency_s"]
                    found = [benchmark.query(architecture, dataset, metric) for metric in wanted]
                    assert found == pytest.approx(expected, rel=1e-12)
                    for place, seed in enumerate(api.query_meta_info_by_index(index, "200").get_dataset_seeds(dataset)):
                        one = api.get_more_info(index, dataset, hp="200", is_random=seed)
                        quantity = "valid" if dataset == "cifar10-valid" else "test"
                        found = benchmark.query(architecture, dataset, f"{quantity}_accuracy_s{place}")
                        assert found == one[f"{quantity}-accuracy"]
    assert compared == 6 * 2 * (2 + 1 + 3 + 3)


class Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))

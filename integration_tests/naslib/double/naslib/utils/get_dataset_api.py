"""Benchmarks: a made-up accuracy for every architecture."""

from collections import defaultdict


def get_dataset_api(search_space, dataset):
    assert search_space != "nasbench101", "Could not find nasbench_only108.pkl. Please download it"
    return {"cifar10": defaultdict(lambda: 90.0)} if search_space == "nasbench201" else None

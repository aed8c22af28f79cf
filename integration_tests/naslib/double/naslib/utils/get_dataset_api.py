"""Benchmarks: one accuracy for every architecture."""

from collections import defaultdict


def get_dataset_api(search_space, dataset):
    assert search_space != "nasbench101", "Could not find nasbench_only108.pkl. Please download it"
    return {"nb201_data": defaultdict(lambda: {"eval_acc1es": [90.0]})} if search_space == "nasbench201" else None

"""What NAS-Bench-201 measures: the data sets, the metrics, and the column that holds each pair.

A metric name is a quantity and, for accuracies, an optional suffix:

    valid_accuracy        percent, after 200 epochs, averaged over the seeds that the architecture was trained with
    test_accuracy         likewise, on the test images
    valtest_accuracy      likewise, on the validation and the test images together
    ..._s0, ..._s1, ..._s2   one seed instead of the average (the smallest, the second and the third)
    ..._e12               after 12 epochs of the short schedule instead of 200 (the average over seeds)
    train_seconds         seconds of training for 200 epochs
    params_mb             millions of parameters (which NAS-Bench-201 calls MB)
    flops_m               millions of multiply-adds of one image
    latency_s             seconds of a batch of 256 images

The data set `cifar10-valid` is CIFAR-10 trained on half of the training images and validated on the other half;
`cifar10` is trained on all of them, so it has no validation accuracy.

Source: Dong and Yang, NAS-Bench-201 (2020), section 2.2 and table 2.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from balenas_plugin.errors import OptionError, nearest

DATASETS = ("cifar10-valid", "cifar10", "cifar100", "ImageNet16-120")

NUM_SEEDS = 3  # no architecture was trained with more

NUM_ARCHITECTURES = 15625

RANKED_BY = {
    "cifar10-valid": "valid_accuracy",
    "cifar10": "test_accuracy",
    "cifar100": "test_accuracy",
    "ImageNet16-120": "test_accuracy",
}


@dataclass(frozen=True)
class Split:
    """A set of images that an accuracy is measured on: our name, NAS-Bench-201's name, and the column."""

    dataset: str
    quantity: str  # valid, test or valtest
    image_set: str  # x-valid, x-test or ori-test
    column: str

    @property
    def metrics(self) -> dict[str, str]:
        """Return metric name -> column of every accuracy on this split."""
        suffixes = ("", "_e12", *(f"_s{seed}" for seed in range(NUM_SEEDS)))
        return {f"{self.quantity}_accuracy{suffix}": self.column + suffix for suffix in suffixes}


# `ori-test` is the test set of CIFAR-10, but the union of `x-valid` and `x-test` on CIFAR-100 and ImageNet16-120.
SPLITS = (
    Split("cifar10-valid", "valid", "x-valid", "c10_val"),
    Split("cifar10-valid", "test", "ori-test", "c10valid_test"),
    Split("cifar10", "test", "ori-test", "c10_test"),
    Split("cifar100", "valid", "x-valid", "c100_val"),
    Split("cifar100", "test", "x-test", "c100_test"),
    Split("cifar100", "valtest", "ori-test", "c100_valtest"),
    Split("ImageNet16-120", "valid", "x-valid", "in16_val"),
    Split("ImageNet16-120", "test", "x-test", "in16_test"),
    Split("ImageNet16-120", "valtest", "ori-test", "in16_valtest"),
)

# The classifier's size is part of the parameters and multiply-adds, so both CIFAR-10 data sets share a column.
COSTS: dict[str, dict[str, str]] = {
    "cifar10-valid": {
        "train_seconds": "c10valid_train_time_s",
        "params_mb": "params_mb",
        "flops_m": "c10_flops_m",
        "latency_s": "c10valid_latency_s",
    },
    "cifar10": {
        "train_seconds": "c10_train_time_s",
        "params_mb": "params_mb",
        "flops_m": "c10_flops_m",
        "latency_s": "c10_latency_s",
    },
    "cifar100": {
        "train_seconds": "c100_train_time_s",
        "params_mb": "c100_params_mb",
        "flops_m": "c100_flops_m",
        "latency_s": "c100_latency_s",
    },
    "ImageNet16-120": {
        "train_seconds": "in16_train_time_s",
        "params_mb": "in16_params_mb",
        "flops_m": "in16_flops_m",
        "latency_s": "in16_latency_s",
    },
}

COLUMN: dict[tuple[str, str], str] = {
    (split.dataset, metric): column for split in SPLITS for metric, column in split.metrics.items()
} | {(dataset, metric): column for dataset, costs in COSTS.items() for metric, column in costs.items()}

METRICS = tuple(dict.fromkeys(metric for _, metric in COLUMN))

COLUMNS = tuple(dict.fromkeys(COLUMN.values()))

ACCURACY_COLUMNS = tuple(column for split in SPLITS for column in split.metrics.values())


def available_metrics(dataset: str, columns: Collection[str]) -> tuple[str, ...]:
    """Return the metrics of `dataset` whose column is among `columns`, in the order of `METRICS`."""
    return tuple(metric for metric in METRICS if COLUMN.get((dataset, metric)) in columns)


def column_of(dataset: str, metric: str, *, columns: Collection[str], source: str) -> str:
    """Return the column that holds `metric` on `dataset`.

    Args:
        dataset: one of `DATASETS`.
        metric: one of `METRICS`.
        columns: the columns that the benchmark has.
        source: the benchmark's name, for the message.

    Raises:
        OptionError: there is no such data set or metric, or this benchmark does not have the combination.
    """
    if dataset not in DATASETS:
        raise OptionError(
            f"NAS-Bench-201 has no data set {dataset!r}; choose one of {', '.join(DATASETS)}"
            + nearest(str(dataset), DATASETS)
        )
    has = f"{source} has for {dataset}: {', '.join(available_metrics(dataset, columns)) or 'nothing'}"
    if metric not in METRICS:
        raise OptionError(f"NAS-Bench-201 has no metric {metric!r}; {has}" + nearest(str(metric), METRICS))
    column = COLUMN.get((dataset, metric))
    if column is None or column not in columns:
        reason = ""
        if dataset == "cifar10" and metric.startswith("valid_"):
            reason = " (it is trained on the training and the validation images; ask for cifar10-valid)"
        raise OptionError(f"{source} has no {metric} for {dataset}{reason}; {has}")
    return column

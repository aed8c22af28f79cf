"""What each table compares, and the paper's own numbers.

Source: Zhang et al. 2022, Tables 1 to 5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

DATASETS = ("cifar10", "cifar100", "ImageNet16-120")
TUNING = "tuning"
VALIDATION = "cifar10-valid"
"""Column of the accuracy by which settings are chosen."""
COSTS = {"cpu_seconds": "CPU seconds", "peak_megabytes": "peak MB"}
"""Columns of what a search took, and how they are called."""


@dataclass(frozen=True)
class Pick:
    """How an architecture is chosen.

    Args:
        rule: "argmax" of the search's alpha; "proxy" for the first of `n` ranked candidates; "draws" for the mean of
            them all; "oracle" for the one with the best validation accuracy on CIFAR-10, which no selection knows.
        n: candidates.
        proxy: name of a proxy or of a selection that ranks them (see `NAMED_SELECTIONS`).
        candidates: "sample" from the posterior or "enumerate" its most probable; without a search, all are as probable.
        include_probability: average in the rank by the posterior's probability.
    """

    rule: str = "argmax"
    n: int = 0
    proxy: str = "synflow"
    candidates: str = "sample"
    include_probability: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        title: as the paper says it.
        search: whose result it is; None for those that need no search.
        pick: how an architecture was chosen from it.
        method: its name for `--methods`.
        paper: data set -> (mean, standard deviation or None) of its test accuracy in percent, where it has one; in
            table 3 of its test error, and "parameters" in millions.
    """

    title: str
    search: str | None
    pick: Pick
    method: str
    paper: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """One table.

    Args:
        name: on the command line.
        title: what it shows.
        rows: its lines.
        pairs: titles of rows whose difference is tested.
        columns: that are shown: data sets tested on, "cifar10-valid", and those of `COSTS`.
        retrained: what is found is not looked up, but trained again, as `Scale.retraining` says.
    """

    name: str
    title: str
    rows: Sequence[Row]
    pairs: Sequence[tuple[str, str]] = ()
    columns: Sequence[str] = (*DATASETS, VALIDATION)
    retrained: bool = False

    def with_methods(self, methods: Sequence[str] | None) -> Experiment:
        """Return the experiment with some methods only."""
        if methods is None:
            return self
        rows = [row for row in self.rows if row.method in methods]
        titles = {row.title for row in rows}
        pairs = [pair for pair in self.pairs if titles.issuperset(pair)]
        return replace(self, rows=rows, pairs=pairs)


def _paper(*numbers: tuple[float, float | None]) -> dict[str, tuple[float, float | None]]:
    return dict(zip(DATASETS, numbers, strict=False))


def _tf(n: int, proxy: str = "synflow", candidates: str = "sample") -> Pick:
    return Pick("proxy", n, proxy, candidates)


def _most_probable(n: int, title: str = "BaLeNAS", search: str = "balenas") -> Row:
    return Row(f"{title}-TF ({n:,} most probable)", search, _tf(n, candidates="enumerate"), search)


def _method(title: str, search: str, paper: Mapping[str, tuple[float, float | None]] | None = None) -> list[Row]:
    """Return what a method finds, and what selection finds in what the method has learned."""
    return [
        Row(title, search, Pick(), search, paper or {}),
        Row(f"{title}, mean of 100 draws", search, Pick("draws", 100), search),
        Row(f"{title}-TF (100)", search, _tf(100), search),
        _most_probable(1000, title, search),
    ]


def tuning(trials: Mapping[str, Sequence[tuple[str, Mapping[str, object]]]]) -> Experiment:
    """Return the table by which settings are chosen: of each trial the validation accuracy alone.

    Args:
        trials: method -> searches of its trials, with their settings (`Scale.tried`).
    """
    rows = [
        Row(f"{method}: {json.dumps(settings)[1:-1]}", search, Pick(), method)
        for method, tried in trials.items()
        for search, settings in tried
    ]
    return Experiment(TUNING, "Settings tried", rows, columns=(VALIDATION,))


_DARTS = _paper((54.30, None), (15.61, None), (16.32, None))
_BALENAS = _paper((93.62, 0.12), (70.98, 0.41), (45.25, 0.86))
_BALENAS_TF = _paper((94.33, 0.03), (72.95, 0.28), (46.54, 0.36))

TABLE_1 = Experiment(
    "table1",
    "NAS-Bench-201, test accuracy",
    [
        *_method("DARTS 1st", "darts", _DARTS),
        Row("DARTS 1st, longer", "darts-long", Pick(), "darts-long"),
        Row("DARTS 2nd", "darts-2nd", Pick(), "darts-2nd", _DARTS),
        *_method("GumbelDARTS", "gumbel-darts"),
        *_method("GDAS", "gdas", _paper((93.51, 0.13), (70.61, 0.26), (41.84, 0.90))),
        *_method("DrNAS", "drnas", _paper((94.36, 0.00), (73.51, 0.00), (46.34, 0.00))),
        Row(
            "Random (mean of 100)",
            None,
            Pick("draws", 100),
            "random",
            _paper((86.61, 13.46), (60.83, 12.58), (33.13, 9.66)),
        ),
        Row(
            "Zero-cost NAS (100)",
            None,
            _tf(100),
            "zero-cost",
            _paper((93.45, 0.28), (70.73, 1.36), (43.64, 2.42)),
        ),
        Row("Zero-cost NAS (1,000)", None, _tf(1000), "zero-cost"),
        Row("BaLeNAS 1st", "balenas", Pick(), "balenas", _BALENAS),
        Row("BaLeNAS 2nd", "balenas-2nd", Pick(), "balenas-2nd", _paper((94.02, 0.14), (71.93, 0.27), (45.48, 0.39))),
        Row("BaLeNAS, mean of 100 draws", "balenas", Pick("draws", 100), "balenas"),
        Row("BaLeNAS-TF (100)", "balenas", _tf(100), "balenas", _BALENAS_TF),
        Row("BaLeNAS-TF (1,000)", "balenas", _tf(1000), "balenas"),
        _most_probable(1000),
    ],
    [
        ("BaLeNAS 1st", "DARTS 1st"),
        ("BaLeNAS-TF (1,000)", "DARTS 1st"),
        ("BaLeNAS-TF (1,000)", "Zero-cost NAS (1,000)"),
        ("BaLeNAS-TF (1,000)", "BaLeNAS 1st"),
        ("BaLeNAS-TF (1,000 most probable)", "DARTS 1st"),
        ("BaLeNAS-TF (1,000 most probable)", "Zero-cost NAS (1,000)"),
        ("BaLeNAS-TF (1,000 most probable)", "BaLeNAS-TF (1,000)"),
        ("BaLeNAS 1st", "GumbelDARTS"),
        ("BaLeNAS 1st", "GDAS"),
        ("BaLeNAS 1st", "DrNAS"),
        *(
            ("BaLeNAS-TF (1,000 most probable)", f"{m}-TF (1,000 most probable)")
            for m in ("DARTS 1st", "GDAS", "DrNAS")
        ),
    ],
)

TABLE_2 = Experiment(
    "table2",
    "BaLeNAS-TF, number of draws",
    [
        Row("BaLeNAS 1st", "balenas", Pick(), "balenas", _BALENAS),
        Row("BaLeNAS-TF (10)", "balenas", _tf(10), "balenas", _paper((94.08, 0.13), (72.55, 0.42), (45.82, 0.30))),
        Row("BaLeNAS-TF (50)", "balenas", _tf(50), "balenas", _BALENAS_TF),
        Row("BaLeNAS-TF (100)", "balenas", _tf(100), "balenas", _BALENAS_TF),
        Row("BaLeNAS-TF (1,000)", "balenas", _tf(1000), "balenas"),
        _most_probable(100),
        _most_probable(1000),
    ],
    [
        ("BaLeNAS-TF (1,000)", "BaLeNAS-TF (10)"),
        ("BaLeNAS-TF (1,000)", "BaLeNAS 1st"),
        ("BaLeNAS-TF (1,000 most probable)", "BaLeNAS-TF (1,000)"),
    ],
)

_NAMES_3 = ("cifar10", "cifar100", "imagenet", "parameters")


def _row_3(title: str, search: str | None, pick: Pick, method: str, *numbers: tuple[float, float | None] | None) -> Row:
    paper = {name: number for name, number in zip(_NAMES_3, numbers, strict=False) if number is not None}
    return Row(title, search, pick, method, paper)


TABLE_3 = Experiment(
    "table3",
    "DARTS space, test error of what was retrained",
    [
        _row_3("DARTS 1st", "darts-cells", Pick(), "darts", (2.94, None), None, None, (2.9, None)),
        _row_3("PC-DARTS", "pcdarts-cells", Pick(), "pcdarts", (2.57, 0.07), (17.11, None), (25.1, None), (3.6, None)),
        _row_3("DrNAS", "drnas-cells", Pick(), "drnas", (2.54, 0.03), (16.30, None), (24.2, None), (4.0, None)),
        _row_3("Random", None, Pick("draws", 1), "random"),
        _row_3("BaLeNAS", "balenas-cells", Pick(), "balenas", (2.50, 0.07), (16.84, None), (25.0, None), (3.82, None)),
        _row_3(
            "BaLeNAS-TF (100)",
            "balenas-cells",
            _tf(100),
            "balenas",
            (2.43, 0.08),
            (15.72, None),
            (24.2, None),
            (3.86, None),
        ),
    ],
    [
        ("BaLeNAS", "DARTS 1st"),
        ("BaLeNAS", "Random"),
        ("BaLeNAS-TF (100)", "BaLeNAS"),
        ("BaLeNAS-TF (100)", "Random"),
        ("DARTS 1st", "Random"),
        ("PC-DARTS", "Random"),
        ("DrNAS", "Random"),
    ],
    retrained=True,
)

_TABLE_4 = {
    ("snip", 10): _paper((93.85, 0.22), (71.48, 0.52), (46.03, 0.41)),
    ("snip", 50): _paper((92.56, 1.18), (64.58, 3.18), (35.23, 10.3)),
    ("snip", 100): _paper((91.37, 0.0), (67.77, 0.0), (24.97, 0.0)),
    ("grasp", 10): _paper((93.94, 0.05), (72.00, 0.06), (44.67, 1.54)),
    ("grasp", 50): _paper((93.72, 0.16), (70.62, 1.43), (44.92, 1.64)),
    ("grasp", 100): _paper((92.32, 1.25), (67.32, 1.85), (39.84, 3.43)),
    ("synflow", 10): _paper((94.08, 0.13), (72.55, 0.42), (45.82, 0.30)),
    ("synflow", 50): _BALENAS_TF,
    ("synflow", 100): _BALENAS_TF,
}

TABLE_4 = Experiment(
    "table4",
    "Training-free proxies",
    [Row(f"{proxy}, {n} draws", "balenas", _tf(n, proxy), "balenas", paper) for (proxy, n), paper in _TABLE_4.items()],
)

TABLE_5 = Experiment(
    "table5",
    "Monte-Carlo samples",
    [
        Row("M = 1", "balenas-m1", Pick(), "balenas-m1", _paper((93.33, 0.04), (70.95, 0.27), (44.32, 0.39))),
        Row("M = 2", "balenas-m2", Pick(), "balenas-m2", _paper((93.75, 0.87), (71.43, 0.45), (45.05, 0.95))),
        Row("M = 3", "balenas", Pick(), "balenas", _paper((94.02, 0.14), (71.93, 0.27), (45.48, 0.39))),
        Row("M = 4", "balenas-m4", Pick(), "balenas-m4", _paper((93.04, 1.09), (69.20, 1.86), (43.21, 2.88))),
    ],
    [("M = 3", "M = 1")],
)

_RULES = {
    "SynFlow": _tf(0),
    "supernet accuracy": _tf(0, "supernet"),
    "SynFlow and supernet accuracy": _tf(0, "synflow+supernet"),
    "SynFlow and probability": replace(_tf(0), include_probability=True),
    "supernet accuracy and probability": replace(_tf(0, "supernet"), include_probability=True),
    "parameters": _tf(0, "params"),
}

_OTHER_PROXIES = {
    "SNIP": "snip",
    "GraSP": "grasp",
    "gradient norm": "grad_norm",
    "Fisher": "fisher",
    "Jacobian covariance": "jacob_cov",
    "NASWOT": "naswot",
}

SELECTION = Experiment(
    "selection",
    "Selection from the posterior",
    [
        Row("argmax of mu", "balenas", Pick(), "balenas", _BALENAS),
        Row("mean of 100 draws", "balenas", Pick("draws", 100), "balenas"),
        *(
            Row(f"{title}, {n:,} draws", "balenas", replace(pick, n=n), "balenas")
            for title, pick in _RULES.items()
            for n in (100, 1000)
        ),
        *(Row(f"{title}, 100 draws", "balenas", _tf(100, proxy), "balenas") for title, proxy in _OTHER_PROXIES.items()),
        *(
            Row(f"SynFlow, {n:,} most probable", "balenas", _tf(n, candidates="enumerate"), "balenas")
            for n in (100, 1000)
        ),
        *(Row(f"the best of {n:,} draws", "balenas", Pick("oracle", n), "balenas") for n in (100, 1000)),
    ],
    [
        ("SynFlow, 1,000 most probable", "SynFlow, 1,000 draws"),
        ("SynFlow, 1,000 draws", "parameters, 1,000 draws"),
        ("supernet accuracy, 1,000 draws", "SynFlow, 1,000 draws"),
        ("supernet accuracy, 100 draws", "SynFlow, 100 draws"),
        ("SynFlow and supernet accuracy, 1,000 draws", "SynFlow, 1,000 draws"),
        ("SynFlow and supernet accuracy, 1,000 draws", "argmax of mu"),
        ("SynFlow and probability, 1,000 draws", "SynFlow, 1,000 draws"),
    ],
)

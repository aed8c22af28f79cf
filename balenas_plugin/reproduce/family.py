"""The family table: every preset, and BaLeNAS with the parts of others, after equal epochs.

Sources of the numbers beside it: Zhang et al. 2022, Table 1; for SNAS, DSNAS and PC-DARTS the table of Chen et al. 2021
(DrNAS). Methods for which neither has a test accuracy on NAS-Bench-201 have none.
"""

from __future__ import annotations

from collections.abc import Iterator

from balenas_plugin.reproduce.experiments import (
    COSTS,
    DATASETS,
    SELECTION,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    VALIDATION,
    Experiment,
    Pick,
    Row,
)

SYNFLOW = Pick("proxy", 1000, "synflow", "enumerate")

_OF_TABLE_1 = {row.search: row.paper for row in TABLE_1.rows if row.paper and row.pick == Pick()}

_REPORTED = {
    "enas": ((53.89, 0.58), (13.96, 2.33), (14.84, 2.10)),
    "rsps": ((88.58, 0.21), (61.45, 2.24), (31.37, 2.51)),
    "setn": ((87.64, 0.00), (59.05, 0.24), (32.52, 0.21)),
    "snas": ((92.77, 0.83), (69.34, 1.98), (43.16, 2.64)),
    "dsnas": ((93.08, 0.13), (31.01, 16.38), (41.07, 0.09)),
    "pcdarts": ((93.41, 0.30), (67.48, 0.89), (41.31, 0.22)),
}

METHODS = {
    "darts": "DARTS",
    "darts-2nd": "SecondOrderDARTS",
    "sdarts-rs": "SDARTS_RS",
    "sdarts-adv": "SDARTS_ADV",
    "pcdarts": "PCDARTS",
    "pdarts": "PDARTS",
    "mergenas": "MergeNAS",
    "dropnas": "DropNAS",
    "gaea": "GAEA",
    "drnas": "DrNAS",
    "drnas-progressive": "DrNASProgressive",
    "gumbel-darts": "GumbelDARTS",
    "snas": "SNAS",
    "gdas": "GDAS",
    "dsnas": "DSNAS",
    "parsec": "PARSEC",
    "proxylessnas": "ProxylessNAS",
    "rsps": "RSPS",
    "setn": "SETN",
    "enas": "ENAS",
    "balenas": "BaLeNAS",
    "balenas-sdarts-rs": "BaLeNAS, SDARTS-RS",
    "balenas-sdarts-adv": "BaLeNAS, SDARTS-ADV",
    "balenas-partial-channels": "BaLeNAS, partial channels",
}
"""Name of a search -> title of its row."""


def _rows() -> Iterator[Row]:
    for search, title in METHODS.items():
        reported = dict(zip(DATASETS, _REPORTED.get(search, ()), strict=False))
        yield Row(title, search, Pick(), search, reported or _OF_TABLE_1.get(search, {}))
        yield Row(f"{title}, SynFlow's pick", search, SYNFLOW, search)


FAMILY = Experiment(
    "family",
    "The family on NAS-Bench-201, test accuracy",
    list(_rows()),
    [
        *(("BaLeNAS", title) for title in METHODS.values() if title != "BaLeNAS"),
        *(("BaLeNAS, SynFlow's pick", f"{t}, SynFlow's pick") for t in METHODS.values() if t != "BaLeNAS"),
    ],
    columns=(*DATASETS, VALIDATION, *COSTS),
)

EXPERIMENTS = {
    experiment.name: experiment for experiment in (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, SELECTION, FAMILY)
}
"""All tables, by name."""

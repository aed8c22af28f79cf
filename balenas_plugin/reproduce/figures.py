"""What each figure draws: which searches, and which number of every epoch of theirs.

Source: Zhang et al. 2022, Figures 1 to 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from balenas_plugin.benchmarks import Benchmark
from balenas_plugin.config import SearchConfig
from balenas_plugin.errors import DataError, OptionError
from balenas_plugin.report.reading import at, number
from balenas_plugin.search_spaces import DEFAULT_SPACE, SearchSpace, find_space


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of every epoch.

    Args:
        name: what it is, in which unit.
        unit: the same in short, beside the axis.
        digits: after the point, in tables.
        keys: where a line of diagnostics.jsonl holds it.
        factor: from the file's unit to this one.
        looked_up: the file holds an architecture's notations there, and the benchmark gives 100 minus this metric of it
            on CIFAR-10; empty if the number is in the file.
        partly: what the benchmark does not hold is left out.
        before: an epoch's number is of the architecture before it is trained, so that of the epoch before in the file.
        curvature: it is measured in some epochs only, as `diagnostics.curvature` and its kin say.
        bounds: that it cannot leave, nor its band in a chart; None for none.
    """

    name: str
    unit: str
    digits: int
    keys: tuple[str, ...]
    factor: float = 1.0
    looked_up: str = ""
    partly: bool = False
    before: bool = False
    curvature: bool = False
    bounds: tuple[float, float] | None = None

    def of(self, record: Mapping[str, Any], benchmark: Benchmark | None) -> float | None:
        """Return the number of one epoch; None where it was not measured, or was not finite.

        Raises:
            SpaceError: the file holds a malformed architecture.
            DataError: the benchmark does not hold the architecture, or this metric of it, unless `partly`.
        """
        found = at(record, self.keys)
        if self.looked_up:
            if benchmark is None or not isinstance(found, Mapping) or not isinstance(found.get(benchmark.space), str):
                return None
            try:
                return 100 - benchmark.query(found[benchmark.space], "cifar10", self.looked_up)
            except DataError:
                if not self.partly:
                    raise
                return None
        value = number(found)
        return None if value is None else self.factor * value


@dataclass(frozen=True)
class Curve:
    """One line of a figure: the mean over seeds.

    Args:
        title: stands at its end.
        search: whose epochs they are.
        method: its name for `--methods`.
    """

    title: str
    search: str
    method: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure.

    Args:
        name: on the command line.
        title: what it shows.
        about: under the title: how it differs from the paper's.
        rows: its curves.
        quantity: what they show.
        notes: what a reader must know of the numbers.
        rule: a value to be marked, and what it is.
        beside: another quantity of the same searches, drawn with it.
    """

    name: str
    title: str
    about: str
    rows: Sequence[Curve]
    quantity: Quantity
    notes: Sequence[str]
    rule: tuple[float, str] | None = None
    beside: Figure | None = None

    def with_methods(self, methods: Sequence[str] | None) -> Figure:
        """Return the figure with some methods only."""
        if methods is None:
            return self
        beside = None if self.beside is None else self.beside.with_methods(methods)
        return replace(self, rows=[row for row in self.rows if row.method in methods], beside=beside)

    def require_measured(self, configs: Sequence[SearchConfig]) -> None:
        """Raise unless these searches write what the figure draws: better now than when they have ended.

        Raises:
            OptionError: one does not.
        """
        for config in configs:
            options, epochs = config.diagnostics, config.evaluator.epochs
            every, problem = options.curvature_every_n_epochs, None
            if not options.enabled:
                problem = "writes no diagnostics: set diagnostics.enabled to true"
            elif self.quantity.curvature and options.curvature == "off":
                problem = "does not measure the curvature: set diagnostics.curvature to auto"
            elif self.quantity.curvature and (every == "auto" or every > epochs):
                problem = (
                    f"ends before the curvature is measured: set diagnostics.curvature_every_n_epochs to {epochs} at "
                    f"most, got {every}"
                )
            elif self.quantity.looked_up and not space_of_config(config).ground_truth:
                name = config.space["name"]
                problem = f"searches the space {name}, which no benchmark holds; {DEFAULT_SPACE} has one"
            if problem is not None:
                raise OptionError(f"{self.name} cannot be drawn: search {config.name} of the scale {problem}")


def space_of_config(config: SearchConfig) -> SearchSpace:
    """Return the space that a config searches."""
    return find_space(config.space["name"]) or SearchSpace()


def values_of(
    quantity: Quantity, records: Sequence[Mapping[str, Any]], benchmark: Benchmark | None
) -> dict[int, float]:
    """Return epoch -> value, of the epochs of one search that have one; of an epoch recorded twice, the later."""
    found = {record["epoch"]: quantity.of(record, benchmark) for record in records}
    if quantity.before:
        last = max(found, default=0)  # whose update no epoch follows
        found = {epoch + 1: value for epoch, value in found.items() if epoch < last}
    return {epoch: value for epoch, value in sorted(found.items()) if value is not None}


TEST_ERROR = Quantity(
    name="test error on CIFAR-10 in percent",
    unit="test error, percent",
    digits=2,
    keys=("notation",),
    looked_up="test_accuracy",
    bounds=(0.0, 100.0),
)
ANYTIME_TEST_ERROR = replace(TEST_ERROR, partly=True, before=True)
ANYTIME_VALIDATION_ERROR = replace(
    ANYTIME_TEST_ERROR,
    name="validation error on CIFAR-10 in percent",
    unit="validation error, percent",
    looked_up="valid_accuracy",
)
SKIP_RATIO = Quantity(
    name="skip connections in percent of the chosen operations",
    unit="skip connections, percent",
    digits=1,
    keys=("skip_ratio",),
    factor=100.0,
    bounds=(0.0, 100.0),
)
EIGENVALUE = Quantity(
    name="largest eigenvalue of d2 L_val / d alpha2 in 1/logit^2",
    unit="largest eigenvalue, 1 / logit\N{SUPERSCRIPT TWO}",
    digits=4,
    keys=("eigenvalue",),
    curvature=True,
)

_ANYTIME = Figure(
    name="fig1",
    title="Anytime test error in NAS-Bench-1Shot1, space 3",
    about="As the paper's Fig. 1",
    rows=[
        Curve("DARTS 1st", "darts-1shot1", "darts"),
        Curve("DARTS 2nd", "darts-2nd-1shot1", "darts-2nd"),
        Curve("BaLeNAS 1st", "balenas-1shot1", "balenas"),
        Curve("BaLeNAS 2nd", "balenas-2nd-1shot1", "balenas-2nd"),
    ],
    quantity=ANYTIME_TEST_ERROR,
    notes=[
        "Each value is NAS-Bench-101's error, the mean of three trainings of 108 epochs, of the argmax of the alphas "
        "before this epoch: the start, which is random, and the last update are not shown. No search sees it.",
        "An epoch has no value if the table lacks its network or this error of it; `looked up` counts those with one.",
    ],
)

FIGURE_1 = replace(
    _ANYTIME,
    beside=replace(
        _ANYTIME,
        name="fig1-validation",
        title="Anytime validation error in NAS-Bench-1Shot1, space 3",
        quantity=ANYTIME_VALIDATION_ERROR,
    ),
)

FIGURE_1_NB201 = Figure(
    name="fig1-nb201",
    title="Anytime test error on NAS-Bench-201",
    about="As the paper's Fig. 1, which is on NAS-Bench-1Shot1",
    rows=[
        Curve("DARTS 1st", "darts", "darts"),
        Curve("GumbelDARTS", "gumbel-darts", "gumbel-darts"),
        Curve("BaLeNAS 1st", "balenas", "balenas"),
    ],
    quantity=TEST_ERROR,
    notes=[
        "The paper's Fig. 1 is on space 3 of NAS-Bench-1Shot1 (`fig1`, which needs NAS-Bench-101's table). This is the "
        "same question on NAS-Bench-201, which ships: do not compare the percentages with the paper's.",
        "Each value is the benchmark's test error of the architecture that the search would return if it ended with "
        "this epoch (the argmax). It is looked up afterwards; no search sees it.",
    ],
)

FIGURE_2 = Figure(
    name="fig2",
    title="Skip connections over the search",
    about="As the paper's Fig. 2, in the cell of NAS-Bench-201",
    rows=[
        Curve("DARTS 1st", "darts", "darts"),
        Curve("DARTS 1st, longer", "darts-long", "darts-long"),
        Curve("BaLeNAS, M = 1", "balenas-m1", "balenas-m1"),
        Curve("BaLeNAS, M = 3", "balenas", "balenas"),
    ],
    quantity=SKIP_RATIO,
    notes=[
        "The paper's Fig. 2 is of the normal cell of the DARTS space, 8 operations. Here it is the cell of "
        "NAS-Bench-201: 6 operations, of which one skip is 16.7 %.",
        "Of the current architecture, the argmax. The thin line is the paper's limit in the DARTS space, 3 of 8 "
        "(Zhang et al. 2022, Sec. 4.2.3); in NAS-Bench-201, networks with up to 3 of 6 are as good as others.",
    ],
    rule=(37.5, "3 of 8"),
)

FIGURE_3 = Figure(
    name="fig3",
    title="Largest eigenvalue of the Hessian over the search",
    about="As the paper's Fig. 3, in the space of NAS-Bench-201",
    rows=[
        Curve("DARTS 1st", "darts", "darts"),
        Curve("BaLeNAS 1st", "balenas", "balenas"),
    ],
    quantity=EIGENVALUE,
    notes=[
        "The paper's Fig. 3 is in the DARTS space. Absolute values depend on the space and the data: compare curves.",
        "Of d2 L_val / d alpha2 on the same validation batches every time, at the current alpha (BaLeNAS: at the "
        "posterior mean), every `diagnostics.curvature_every_n_epochs`.",
    ],
)

FIGURES = {figure.name: figure for figure in (FIGURE_1, FIGURE_1_NB201, FIGURE_2, FIGURE_3)}

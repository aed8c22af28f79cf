"""`balenas query` and `balenas benchmark`: ground truth."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from balenas_plugin.cli.inputs import require_file, require_table

if TYPE_CHECKING:
    from balenas_plugin.bayes.decisions import Architecture
    from balenas_plugin.search_spaces import SearchSpace

_NASBENCH101 = (".tfrecord", ".db", ".sqlite", ".csv", ".parquet")

_EXAMPLES = """\
examples:
  balenas query "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
  balenas query 1462 --dataset cifar10                    by its number in NAS-Bench-201
  balenas query DARTS_V2 --draw cells.svg                 a published genotype: its size and its cells
"""

_IMPORT = """\
examples:
  balenas benchmark import NAS-Bench-201-v1_1-096897.pth  writes nb201_full.parquet
  balenas benchmark import nasbench_only108.tfrecord --output ~/data/nb1shot1.parquet

A table in the folder that BALENAS_DATA names is found by itself; --table of other commands names one elsewhere.
"""


def add_benchmark(commands: Any, formatter: Any) -> None:
    """Add `balenas query` and `balenas benchmark import`."""
    query = commands.add_parser(
        "query",
        help="print all that a benchmark knows of an architecture, or its size",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    query.add_argument(
        "architecture",
        metavar="ARCH",
        help="its string in the benchmark, or its genotype, in quotes; or its index, operation indices, NNI's dict, or "
        "the name of a published one, as DARTS_V2",
    )
    query.add_argument("--space", metavar="NAME", help="that the architecture is of (found out)")
    query.add_argument(
        "--notation",
        metavar="NAME",
        help="string, index, indices, naslib (its op_indices) or nni; genotype, compact, config or name (found out)",
    )
    query.add_argument("--dataset", help="cifar10-valid, cifar10, cifar100 or ImageNet16-120 (all)")
    query.add_argument(
        "--table", type=Path, help="another table, or its folder (default: in BALENAS_DATA, else what ships)"
    )
    query.add_argument("--draw", type=Path, metavar="FILE", help="draw its cells too, as .svg or .png")
    query.set_defaults(run_command=_query)
    benchmark = commands.add_parser("benchmark", help="work with ground-truth tables")
    actions = benchmark.add_subparsers(dest="action", required=True, metavar="ACTION")
    importing = actions.add_parser(
        "import",
        help="turn an official file into a table with every seed, in little memory",
        epilog=_IMPORT,
        formatter_class=formatter,
    )
    importing.add_argument(
        "file", type=Path, metavar="FILE", help="NAS-Bench-201's .pth, or NAS-Bench-101's .tfrecord or NNI's .db of it"
    )
    importing.add_argument("--output", type=Path, help="(nb201_full.parquet or nb1shot1.parquet)")
    importing.set_defaults(run_command=_benchmark_import)


def _query(options: argparse.Namespace) -> int:
    require_table(options.table)
    from balenas_plugin.errors import DataError, MissingDependencyError
    from balenas_plugin.ground_truth import find_table, require_benchmark
    from balenas_plugin.search_spaces import read_architecture

    space, reading = read_architecture(options.architecture, name=options.space, notation=options.notation)
    find_table(space, options.table)  # if it is not there, only that is said
    if reading.read_as:
        print(f"balenas: read as {reading.read_as}. {reading.remark}".rstrip(), file=sys.stderr)
    architecture: Any = reading.sample
    if architecture is None:
        architecture = space.read(require_benchmark(space, options.table).architecture(reading.index or 0)).sample
    if options.draw is not None:
        from balenas_plugin.report.drawings import draw_cells

        title = reading.name or space.notation(architecture) or space.title
        print("\n".join(map(str, draw_cells(options.draw, space, architecture, title=title))), file=sys.stderr)
    if space.trained_as:
        _print_sizes(space, architecture)
        if not space.ground_truth:
            return 0
    try:
        benchmark = require_benchmark(space, options.table)
        truth = benchmark.describe(architecture).to_dict()
    except (DataError, MissingDependencyError) as error:
        if not space.trained_as or options.table is not None:
            raise
        print(f"balenas: no accuracies: {error}", file=sys.stderr)
        return 0
    if options.dataset is not None:
        from balenas_plugin.options import OneOf, checked

        checked("--dataset", options.dataset, Annotated[str, OneOf(lambda: tuple(benchmark.ranked_by))])
    print(truth["architecture"] if truth["index"] is None else f"{truth['architecture']}  (index {truth['index']})")
    if truth["num_seeds"] is not None:
        print(f"trained with {truth['num_seeds']} seeds; not seen by any search")
    for dataset, metrics in truth["values"].items():
        if options.dataset in (None, dataset):
            print(f"\n{dataset}")
            for metric, value in metrics.items():
                print(f"  {metric:24}{value:12.4f}")
            if dataset in truth["rank"]:
                ranked_by, among = truth["ranked_by"][dataset], truth["num_ranked"][dataset]
                print(f"  {'rank by ' + ranked_by:24}{truth['rank'][dataset]:12} of {among}")
                print(f"  {'regret':24}{truth['regret'][dataset]:12.4f}")
    return 0


def _print_sizes(space: SearchSpace, architecture: Architecture) -> None:
    """Print the parameters and multiply-adds of the networks that the papers of a space train."""
    import torch

    from balenas_plugin.proxies.flops import flops
    from balenas_plugin.proxies.params import params

    print(f"{space.notation(architecture)}\n\n  {'network':20}{'parameters':>14}{'multiply-adds':>16}")
    for name, sizes in space.trained_as.items():
        sized = space.sized(**sizes)
        with torch.device("meta"):
            network = sized.build(architecture)
        inputs = sized.inputs(1, device="meta")
        print(f"  {name:20}{params(network, inputs):>14,.0f}{flops(network, inputs) / 2:>16,.0f}")


def _benchmark_import(options: argparse.Namespace) -> int:
    require_file(options.file, "the benchmark")
    from tqdm import tqdm

    from balenas_plugin.benchmarks import import_official

    if options.file.suffix.lower() in _NASBENCH101:
        from balenas_plugin.search_spaces.nasbench1shot1.ground_truth import TABLE_FILE, import_table

        output = options.output or Path(TABLE_FILE)
        with tqdm(desc="import", unit="training") as bar:
            count = import_table(options.file, output, progress=lambda done: bar.update(done - bar.n))
        print(f"{count} networks of NAS-Bench-1Shot1 written to {output}")
        return 0
    output = options.output or Path("nb201_full.parquet")
    with tqdm(desc="import", unit="arch") as bar:
        report = import_official(options.file, output, progress=lambda done: bar.update(done - bar.n))
    print(f"{report.num_architectures} architectures written to {report.table}, sha256 {report.sha256}")
    return 0

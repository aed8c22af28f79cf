"""`balenas reproduce`: the paper's tables and figures, searched again."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balenas_plugin.cli.inputs import require_file, require_table

if TYPE_CHECKING:
    from balenas_plugin.run_folder import RunFolder
    from balenas_plugin.selection.supernet_accuracy import Supernet

_TABLES = ("table1", "table2", "table3", "table4", "table5", "selection", "family", "tuning")

_EXAMPLES = """\
examples:
  balenas reproduce table1 --seeds 0-3                      with CIFAR-10 as JPEG in BALENAS_DATA, see below
  balenas reproduce table1 --scale small-lossless           the same on CIFAR-10 as torchvision downloads it
  balenas reproduce table1 --methods darts balenas zero-cost --seeds 0,1 --jobs 2    two searches at a time
  balenas reproduce table1 --seeds 4-7 --resume --name others    others.md, others.csv, ...: table1.md stays
  balenas reproduce table5 --resume                         go on after Ctrl-C; searches that tables share run once
  balenas reproduce fig2 --resume                           skip connections over the epochs, from the same searches
  balenas reproduce selection --resume                      how to choose from the same posteriors
  balenas reproduce family --resume                         every method, with what its search took
  balenas reproduce table3 --seeds 0-3                      in the DARTS space: what is found is picked and retrained
  balenas reproduce table3 --plan                           how many searches and trainings that are, and how long
  balenas reproduce tuning --seeds 0-1 --resume             the scale's trials, by validation accuracy alone
  balenas reproduce table1 --scale paper --table ~/data     the paper's sizes, for one GPU

fig1   validation and test error of the argmax before each epoch, in space 3 of NAS-Bench-1Shot1: DARTS and BaLeNAS,
       both orders; it needs NAS-Bench-101's accuracies, which do not ship: --table nasbench_only108.tfrecord
fig1-nb201   test error of the argmax over the epochs, on NAS-Bench-201: DARTS, GumbelDARTS, BaLeNAS
fig2   share of skip connections over the epochs: DARTS, longer DARTS, BaLeNAS with M = 1 and 3
fig3   largest eigenvalue of d2 L_val / d alpha2 over the epochs: DARTS, BaLeNAS
table3 trains what is found on the data sets of the scale's section retraining; one that is not there is left out.
A figure is written as Markdown, CSV, JSON, SVG and PNG.

NAS-Bench-201's accuracies ship with the package (--table, or a table in the folder that BALENAS_DATA names, comes
first). CIFAR-10 is needed in that folder: small reads cifar10_train_jpeg.parquet; small-lossless and paper read what
torchvision stores, and download it where it is not there.
"""


def add_reproduce(commands: Any, formatter: Any) -> None:
    """Add `balenas reproduce`."""
    reproduce = commands.add_parser(
        "reproduce",
        help="search again what a table or figure of the paper reports, and write it beside the paper's numbers",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    reproduce.add_argument(
        "experiment",
        choices=(*_TABLES, "fig1", "fig1-nb201", "fig2", "fig3"),
        help="which table or figure",
    )
    reproduce.add_argument(
        "--scale",
        default="small",
        metavar="NAME|FILE.yml",
        help="small, small-lossless, paper, or a file like those of configs/reproduce/ (small)",
    )
    reproduce.add_argument("--seeds", default="0-3", help='e.g. "0-3" or "0,2" (0-3)')
    reproduce.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="only these, e.g. darts balenas (all); BaLeNAS-TF comes with balenas: it selects from that search",
    )
    reproduce.add_argument(
        "--output", type=Path, metavar="DIR", help="where to search, train and write (reproduce/<scale>)"
    )
    reproduce.add_argument("--name", help="of the files written, without ending (that of the table or figure)")
    reproduce.add_argument(
        "--jobs",
        type=int,
        metavar="J",
        help="searches or trainings at a time (as many as fit the cores; at paper scale 1)",
    )
    reproduce.add_argument("--table", type=Path, help="ground truth (default: in BALENAS_DATA, else what ships)")
    reproduce.add_argument("--resume", action="store_true", help="go on with the searches that are in --output")
    reproduce.add_argument(
        "--plan", action="store_true", help="only say how many searches and trainings there are, and about how long"
    )
    reproduce.set_defaults(run_command=_reproduce)


def _reproduce(options: argparse.Namespace) -> int:
    if Path(options.scale).suffix in (".yml", ".yaml"):
        require_file(Path(options.scale), "the scale")
    require_table(options.table)
    from balenas_plugin.errors import OptionError
    from balenas_plugin.options import Workers, checked
    from balenas_plugin.reproduce.run import experiment_of, reproduce, seeds_of, workloads
    from balenas_plugin.reproduce.scales import load_scale
    from balenas_plugin.reproduce.units import in_words
    from balenas_plugin.signals import stopped_by_signals

    if options.jobs is not None:
        checked("--jobs", options.jobs, Workers)
    scale, seeds = load_scale(options.scale), seeds_of(options.seeds)
    experiment = experiment_of(options.experiment, options.methods, scale)
    output = options.output or Path("reproduce") / scale.name
    jobs = scale.jobs if options.jobs is None else options.jobs
    if options.plan:
        print(in_words(workloads(experiment, scale, seeds, output, supernet_of=_supernet_of), jobs=jobs))
        return 0
    if any((output / name).exists() for name in ("searches", "trainings")) and not options.resume:
        raise OptionError(
            f"{output} holds searches or trainings already: add --resume to go on with them, or choose another --output"
        )
    try:
        with stopped_by_signals():  # or the searches that it started would go on alone
            found, files = reproduce(
                experiment,
                scale,
                seeds,
                output,
                table=options.table,
                jobs=jobs,
                supernet_of=_supernet_of,
                name=options.name,
            )
    except KeyboardInterrupt:
        print("balenas: stopped. The same command with --resume goes on where it was.", file=sys.stderr)
        return 130
    print(found.markdown())
    print(f"written to {', '.join(map(str, files))}")
    return 0


def _supernet_of(folder: RunFolder) -> Supernet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from balenas_plugin.adapters.nni.run.finished_run import FinishedRun
    return FinishedRun.load(folder).trained_supernet()

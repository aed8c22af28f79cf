"""The `balenas` command."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balenas_plugin import __version__
from balenas_plugin.errors import BalenasError

_EXAMPLES = """\
examples:
  balenas doctor                                  is everything installed that a search needs?
  balenas search configs/quickstart.yml           search NAS-Bench-201 on bundled images, minutes on a laptop
  balenas search configs/quickstart.yml --set evaluator.epochs=3 --seed 1 --output runs/trial
  balenas search configs/quickstart.yml --resume  continue the last run of this name after a crash or Ctrl-C
  balenas ui configs/quickstart.yml               the same search, watched in NNI's web page
  balenas export runs/quickstart --samples 100 --proxy synflow --top 10
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml optimizer balenas
  balenas report runs/quickstart                  one page that shows the whole search
  balenas query "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"

exit codes: 0 done, 2 bad input (one message says what and how to cure it), 130 stopped with Ctrl-C
"""

_SEARCH_EXAMPLES = """\
examples:
  balenas search configs/quickstart.yml
  balenas search configs/quickstart.yml --set strategy.num_mc_samples=1 --set data.name=cifar10 --set data.root=~/data
  balenas search configs/quickstart.yml --set strategy=DARTS      one of NNI's own strategies, for comparison
  balenas search configs/quickstart.yml --output runs/trial --overwrite

The run's folder then holds config.yml, manifest.json, history.csv, posterior.json, architectures.json and checkpoints/.
"""


_UI_EXAMPLES = """\
examples:
  balenas ui configs/quickstart.yml                 search, and watch it at the address that is printed
  balenas ui configs/quickstart.yml --port 8081 --set strategy.candidate_epochs=5     train what it finds, briefly
  balenas ui configs/quickstart.yml --resume        go on after a crash or Ctrl-C
  balenas ui --view runs/quickstart                 open the page of a finished search again
"""


_EXPORT_EXAMPLES = """\
examples:
  balenas export runs/quickstart                          BaLeNAS-TF: 100 draws ranked by SynFlow
  balenas export runs/quickstart --samples 1000 --candidates enumerate --workers 2
  balenas export runs/quickstart --proxy synflow --proxy naswot --include-probability
  balenas export runs/quickstart --top 1 --format python --format onnx --format svg
"""

_NASLIB_EXAMPLES = """\
examples:
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml optimizer darts seed 1
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml --resume

NASLib is looked for on Python's path and where BALENAS_NASLIB_PATH says: docs/naslib.md.
"""

_REPORT_EXAMPLES = """\
examples:
  balenas report runs/quickstart                          writes runs/quickstart/report.html
  balenas report runs/a runs/b runs/c --output compared.html --png pictures

The page is one file that loads nothing. Runs that differ in their seed alone are averaged.
"""


_REPRODUCE_EXAMPLES = """\
examples:
  balenas reproduce table1 --seeds 0-3 --jobs 2             two searches at a time
  balenas reproduce table1 --methods darts balenas zero-cost --seeds 0,1
  balenas reproduce table5 --resume                         go on after Ctrl-C; searches that tables share run once
  balenas reproduce table1 --scale paper --table ~/data     the paper's sizes, for one GPU

Needs the NAS-Bench-201 table (--table, or in the folder that BALENAS_DATA names) and, at small scale, the CIFAR-10
parquet files there.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="balenas",
        description="Search neural architectures by learning a distribution over them (BaLeNAS).",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"balenas {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    search = commands.add_parser(
        "search", help="run a search from a YAML file", epilog=_SEARCH_EXAMPLES, formatter_class=formatter
    )
    search.add_argument("config", type=Path, metavar="CONFIG.yml", help="what to search, on what, how (see configs/)")
    _add_run_options(search)
    search.set_defaults(run_command=_search)

    _add_ui(commands, formatter)
    _add_export(commands, formatter)
    _add_report(commands, formatter)
    _add_benchmark(commands, formatter)
    _add_reproduce(commands, formatter)
    _add_naslib(commands, formatter)
    doctor = commands.add_parser("doctor", help="check the installation and name what is broken, with its cure")
    doctor.set_defaults(run_command=_doctor)
    return parser


def _add_run_options(command: Any) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        dest="overrides",
        help="override one option; repeatable",
    )
    command.add_argument("--seed", type=int, help="seed of everything random, instead of the config's")
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the run (default: runs/<name>, numbered when it exists)"
    )
    existing = command.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue an interrupted run, exactly")
    existing.add_argument("--overwrite", action="store_true", help="replace the run that is in --output")


def _add_ui(commands: Any, formatter: Any) -> None:
    ui = commands.add_parser(
        "ui", help="search, and watch it in NNI's web page", epilog=_UI_EXAMPLES, formatter_class=formatter
    )
    what = ui.add_mutually_exclusive_group(required=True)
    what.add_argument("config", type=Path, nargs="?", metavar="CONFIG.yml", help="what to search, on what, how")
    what.add_argument("--view", metavar="ID|RUN_DIR", help="only open the page of a finished experiment")
    ui.add_argument("--port", type=int, default=8080, metavar="P", help="of the page; 0 takes any free one (8080)")
    ui.add_argument("--url-prefix", metavar="PATH", help="start of the page's path (default: one that nobody guesses)")
    ui.add_argument("--concurrency", type=int, default=1, metavar="N", help="trials at a time (1)")
    ui.add_argument("--close", action="store_true", help="end with the search instead of keeping the page open")
    _add_run_options(ui)
    ui.set_defaults(run_command=_ui)


def _add_export(commands: Any, formatter: Any) -> None:
    export = commands.add_parser(
        "export",
        help="rank what a run has learned with zero-cost proxies, and write networks to train",
        epilog=_EXPORT_EXAMPLES,
        formatter_class=formatter,
    )
    export.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a finished search")
    export.add_argument(
        "--samples", type=int, default=100, metavar="N", help="draws, or architectures enumerated (100)"
    )
    export.add_argument(
        "--proxy", action="append", metavar="NAME", help="zero-cost proxy (synflow); repeat it to average their ranks"
    )
    export.add_argument(
        "--candidates", default="sample", metavar="sample|enumerate", help="draw from q, or its most probable"
    )
    export.add_argument(
        "--include-probability", action="store_true", help="average in the rank by posterior probability"
    )
    export.add_argument("--top", type=int, default=10, metavar="K", help="how many to show and write (10)")
    export.add_argument(
        "--format",
        action="append",
        choices=("json", "csv", "python", "onnx", "svg"),
        help="what to write; repeatable (json and csv)",
    )
    export.add_argument("--output", type=Path, metavar="DIR", help="where to write (RUN_DIR/export)")
    export.add_argument("--seed", type=int, default=0, help="of the draws and initialisations (0)")
    export.add_argument("--seeds", type=int, default=1, metavar="S", help="initialisations scored per architecture (1)")
    export.add_argument("--max-params", type=float, metavar="P", help="leave out larger networks")
    export.add_argument("--max-flops", type=float, metavar="F", help="leave out costlier networks (per image)")
    export.add_argument("--workers", type=int, default=1, metavar="W", help="processes that score in parallel (1)")
    export.add_argument("--table", type=Path, help="NAS-Bench-201 ground truth to add (default: in BALENAS_DATA)")
    export.set_defaults(run_command=_export)


def _add_report(commands: Any, formatter: Any) -> None:
    report = commands.add_parser(
        "report",
        help="write a page about one run, or several side by side",
        epilog=_REPORT_EXAMPLES,
        formatter_class=formatter,
    )
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="folders of searches, finished or not")
    report.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (RUN_DIR/report.html; report.html for several runs)"
    )
    report.add_argument("--png", type=Path, metavar="DIR", help="write every picture there as a PNG as well")
    report.set_defaults(run_command=_report)


def _add_benchmark(commands: Any, formatter: Any) -> None:
    query = commands.add_parser("query", help="print all that NAS-Bench-201 knows of an architecture")
    query.add_argument("architecture", metavar="ARCH", help="NAS-Bench-201's string, in quotes")
    query.add_argument("--dataset", help="cifar10-valid, cifar10, cifar100 or ImageNet16-120 (all)")
    query.add_argument("--table", type=Path, help="the table, or its folder (default: in BALENAS_DATA)")
    query.set_defaults(run_command=_query)
    benchmark = commands.add_parser("benchmark", help="work with ground-truth tables")
    actions = benchmark.add_subparsers(dest="action", required=True, metavar="ACTION")
    importing = actions.add_parser("import", help="turn the official file into the compact table, in little memory")
    importing.add_argument("file", type=Path, metavar="FILE", help="NAS-Bench-201's .pth, or NATS-Bench's folder")
    importing.add_argument("--output", type=Path, default=Path("nb201_full.parquet"), help="(nb201_full.parquet)")
    importing.set_defaults(run_command=_benchmark_import)


def _add_reproduce(commands: Any, formatter: Any) -> None:
    reproduce = commands.add_parser(
        "reproduce",
        help="search again what a table of the paper reports, and write it beside the paper's numbers",
        epilog=_REPRODUCE_EXAMPLES,
        formatter_class=formatter,
    )
    reproduce.add_argument("experiment", choices=("table1", "table2", "table4", "table5"), help="which table")
    reproduce.add_argument(
        "--scale", default="small", metavar="small|paper|FILE.yml", help="how large (small; see configs/reproduce/)"
    )
    reproduce.add_argument("--seeds", default="0-3", help='e.g. "0-3" or "0,2" (0-3)')
    reproduce.add_argument("--methods", nargs="+", metavar="NAME", help="only these, e.g. darts balenas (all)")
    reproduce.add_argument("--output", type=Path, metavar="DIR", help="where to search and write (reproduce/<scale>)")
    reproduce.add_argument("--jobs", type=int, default=1, metavar="J", help="searches at a time (1)")
    reproduce.add_argument("--table", type=Path, help="NAS-Bench-201 ground truth (default: in BALENAS_DATA)")
    reproduce.add_argument("--resume", action="store_true", help="go on with the searches that are in --output")
    reproduce.set_defaults(run_command=_reproduce)


def _add_naslib(commands: Any, formatter: Any) -> None:
    naslib = commands.add_parser(
        "naslib",
        help="run one of NASLib's own scripts with BaLeNAS among its optimizers",
        epilog=_NASLIB_EXAMPLES,
        formatter_class=formatter,
    )
    naslib.add_argument("script", type=Path, metavar="SCRIPT", help="e.g. NASLib/naslib/runners/nas/runner.py")
    naslib.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the script's own arguments")
    naslib.set_defaults(run_command=_naslib)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.run_command(options))
    except BalenasError as error:
        print(f"balenas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("balenas: stopped.", file=sys.stderr)
        return 130


def _doctor(options: argparse.Namespace) -> int:
    from balenas_plugin.doctor import run_doctor

    return run_doctor()


def _search(options: argparse.Namespace) -> int:
    from balenas_plugin.config import load_config
    from balenas_plugin.run_location import helps_another, new_run_folder, resumed_run_folder, shared_run_folder

    config = load_config(options.config, options.overrides, seed=options.seed)
    helps = helps_another(config)
    if helps:
        folder = shared_run_folder(options.output)
    elif options.resume:
        folder = resumed_run_folder(config, options.output)
        if folder.finished:
            print(f"{folder.path} is finished already; its architectures:")
            _print_architectures(folder)
            return 0
    else:
        folder = new_run_folder(config, options.output, overwrite=options.overwrite)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NNI warns about every class of a torch newer than itself
            from balenas_plugin.adapters.nni.run import run_search
        run_search(config, folder, resume=options.resume)
    except KeyboardInterrupt:
        if helps or not folder.manifest.exists():
            raise
        print(f"balenas: stopped. To continue exactly where it was: {_resume(options, folder)}", file=sys.stderr)
        return 130
    finally:
        if not helps:
            folder.release()
    if not helps:
        _print_architectures(folder)
    return 0


def _ui(options: argparse.Namespace) -> int:
    from balenas_plugin.config import load_config
    from balenas_plugin.run_location import new_run_folder, resumed_run_folder
    from balenas_plugin.validation import require_whole

    require_whole("--concurrency", options.concurrency, least=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from balenas_plugin.adapters.nni.web.ui import search_in_ui, stopped_by_signals, view_in_ui
    with stopped_by_signals():
        if options.view is not None:
            view_in_ui(options.view, port=options.port, url_prefix=options.url_prefix)
            return 0
        config = load_config(options.config, options.overrides, seed=options.seed)
        resumed = resumed_run_folder(config, options.output) if options.resume else None
        folder = resumed or new_run_folder(config, options.output, overwrite=options.overwrite)
        try:
            search_in_ui(
                config,
                folder,
                port=options.port,
                url_prefix=options.url_prefix,
                concurrency=options.concurrency,
                resume=options.resume,
                show=lambda: _print_architectures(folder),
                close=options.close,
            )
        except KeyboardInterrupt:
            if not folder.config.exists():
                raise
            print(f"balenas: stopped. To continue: {_resume(options, folder)}", file=sys.stderr)
            return 130
        finally:
            folder.release()
    return 0


def _resume(options: argparse.Namespace, folder: Any) -> str:
    """Return the command that resumes the search."""
    words = ["balenas", options.command, str(options.config)]
    for override in options.overrides:
        words += ["--set", override]
    if options.seed is not None:
        words += ["--seed", str(options.seed)]
    return shlex.join([*words, "--output", str(folder.path), "--resume"])


def _export(options: argparse.Namespace) -> int:
    from balenas_plugin.export import ProxySelection
    from balenas_plugin.run_folder import RunFolder
    from balenas_plugin.validation import require_whole

    require_whole("--top", options.top, least=1)
    selection = ProxySelection(
        n=options.samples,
        proxy=options.proxy or "synflow",
        candidates=options.candidates,
        include_probability=options.include_probability,
        seeds=options.seeds,
        seed=options.seed,
        max_params=options.max_params,
        max_flops=options.max_flops,
        workers=options.workers,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from balenas_plugin.adapters.nni.export import FinishedRun, write_exports
    run = FinishedRun.load(RunFolder(options.run))
    ranked = run.rank(selection, table=options.table, progress=True)[: options.top]
    print(f"\n{'rank':>4}  {'stability':>9}  {'probability':>11}  {selection.proxies[0]:>11}  architecture")
    for found in ranked:
        name = next(iter(found.notation.values()), str(found.choices))
        value = found.scores[selection.proxies[0]]
        print(f"{found.rank:>4}  {found.stability:9.2f}  {found.probability:11.3g}  {value:11.5g}  {name}")
    output = options.output or options.run / "export"
    written = write_exports(run, ranked, options.format or ["json", "csv"], output)
    print(f"\n{len(written)} files written to {output}")
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    from balenas_plugin.errors import OptionError
    from balenas_plugin.reproduce.run import experiment_of, reproduce, seeds_of
    from balenas_plugin.reproduce.scales import load_scale
    from balenas_plugin.validation import require_whole

    require_whole("--jobs", options.jobs, least=1)
    scale, seeds = load_scale(options.scale), seeds_of(options.seeds)
    experiment = experiment_of(options.experiment, options.methods)
    output = options.output or Path("reproduce") / scale.name
    if (output / "searches").exists() and not options.resume:
        raise OptionError(
            f"{output} holds searches already: add --resume to go on with them, or choose another --output"
        )
    try:
        table = reproduce(experiment, scale, seeds, output, table=options.table, jobs=options.jobs)
    except KeyboardInterrupt:
        print("balenas: stopped. The same command with --resume goes on where it was.", file=sys.stderr)
        return 130
    print(table.markdown())
    print(f"written to {output / experiment.name}.md, .csv and .json")
    return 0


def _report(options: argparse.Namespace) -> int:
    from balenas_plugin.report import write_report

    output = options.output or (options.runs[0] / "report.html" if len(options.runs) == 1 else Path("report.html"))
    written = write_report(options.runs, output, pictures=options.png)
    pictures = f", and {len(written) - 1} pictures to {options.png}" if options.png else ""
    print(f"report written to {output}{pictures}")
    return 0


def _query(options: argparse.Namespace) -> int:
    from balenas_plugin.benchmarks import open_benchmark

    truth = open_benchmark(options.table).describe(options.architecture).to_dict()
    if options.dataset is not None:
        from balenas_plugin.benchmarks import DATASETS
        from balenas_plugin.validation import require_word

        require_word("--dataset", options.dataset, tuple(DATASETS))
    print(truth["architecture"] if truth["index"] is None else f"{truth['architecture']}  (index {truth['index']})")
    for dataset, metrics in truth["values"].items():
        if options.dataset in (None, dataset):
            print(f"\n{dataset}")
            for metric, value in metrics.items():
                print(f"  {metric:24}{value:12.4f}")
            if dataset in truth["rank"]:
                ranked_by = truth["ranked_by"][dataset]
                print(f"  {'rank by ' + ranked_by:24}{truth['rank'][dataset]:12} of {truth['num_architectures']}")
                print(f"  {'regret':24}{truth['regret'][dataset]:12.4f}")
    return 0


def _benchmark_import(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from balenas_plugin.benchmarks import import_official

    with tqdm(desc="import", unit="arch") as bar:
        report = import_official(options.file, options.output, progress=lambda done: bar.update(done - bar.n))
    print(f"{report.num_architectures} architectures written to {report.table}, sha256 {report.sha256}")
    return 0


def _naslib(options: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NASLib's code warns about newer Pythons, NumPys and torches
        from balenas_plugin.adapters.naslib.runner import run_script

    run_script(options.script, options.arguments)
    return 0


def _print_architectures(folder: Any) -> None:
    import json

    records = folder.read_architectures()
    print(f"\n{'rank':>4}  {'probability':>11}  architecture")
    for record in records:
        name = next(iter(record["notation"].values()), None) or json.dumps(record["choices"])
        probability = f"{record['probability']:11.3g}" if "probability" in record else " " * 11
        mark = "  <- argmax of the mean" if record.get("chosen_by") == "argmax of the mean" else ""
        print(f"{record['rank']:>4}  {probability}  {name}{mark}")
    print(f"\nEverything about this run: {folder.path}")


if __name__ == "__main__":
    sys.exit(main())

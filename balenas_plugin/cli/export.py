"""`balenas export`: rank what a run has learned, and write networks to train."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from balenas_plugin.cli.inputs import read_limit, require_run, require_table

_EXAMPLES = """\
examples:
  balenas export runs/quickstart                          BaLeNAS-TF: 100 draws ranked by SynFlow
  balenas export runs/quickstart --selection synflow-enumerated --workers 2    the 1,000 most probable, not draws
  balenas export runs/quickstart --selection supernet     ranked by the supernet's own accuracy
  balenas export runs/quickstart --selection supernet --samples 1000 --images 2000 --workers 2
  balenas export runs/quickstart --selection darts-pt     choice by choice, by what the supernet's accuracy loses
  balenas export runs/quickstart --proxy synflow --proxy naswot --include-probability
  balenas export runs/quickstart --top 1 --format python --format onnx --format svg
  balenas export runs/quickstart --max-params 50e3 --max-latency 2 --pareto latency      small and quick ones alone
  balenas export runs/quickstart --epoch 7                the posterior of an earlier epoch, before a search collapsed
"""

_LISTED = 20  # candidates that no other beats


def add_export(commands: Any, formatter: Any) -> None:
    """Add `balenas export`."""
    export = commands.add_parser(
        "export",
        help="rank what a run has learned with zero-cost proxies, and write networks to train",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    export.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a finished search")
    export.add_argument(
        "--selection",
        default="synflow",
        metavar="NAME",
        help="synflow, synflow-enumerated, supernet, synflow+supernet, most-probable, one-batch, "
        "one-batch-enumerated or darts-pt; what follows changes it",
    )
    export.add_argument(
        "--samples",
        dest="n",
        type=int,
        metavar="N",
        help="draws, architectures enumerated, or orders of DARTS-PT (100; synflow-enumerated: 1000; darts-pt: 1)",
    )
    export.add_argument(
        "--proxy",
        action="append",
        metavar="NAME",
        help="zero-cost proxy, supernet_accuracy or probability; repeat it to average their ranks",
    )
    export.add_argument(
        "--candidates",
        metavar="sample|enumerate|darts-pt",
        help="draw from q, take its most probable, or those that perturbations of the supernet choose",
    )
    export.add_argument(
        "--include-probability",
        action="store_true",
        default=None,
        help="average in the rank by posterior probability",
    )
    export.add_argument("--top", type=int, default=10, metavar="K", help="how many to show and write (10)")
    export.add_argument(
        "--format",
        action="append",
        choices=("json", "csv", "python", "onnx", "svg"),
        help="what to write; repeatable (json and csv)",
    )
    export.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (RUN_DIR/export, RUN_DIR/export-epoch-N)"
    )
    export.add_argument(
        "--epoch",
        type=int,
        metavar="N",
        help="take the posterior after this epoch, from 0 (the last); weights are always those of the last epoch",
    )
    export.add_argument("--seed", type=int, help="of the draws, the initialisations and the supernet's images (0)")
    export.add_argument("--seeds", type=int, metavar="S", help="initialisations scored per architecture (1)")
    export.add_argument(
        "--images", type=int, metavar="I", help="validation images that the supernet's accuracy is counted on (1000)"
    )
    export.add_argument(
        "--own-images",
        action="store_true",
        default=None,
        help="other images for each architecture",
    )
    export.add_argument(
        "--batch-statistics",
        action="store_true",
        default=None,
        help="batch-norm by the statistics of these images",
    )
    export.add_argument(
        "--batch-norm-batches", type=int, metavar="B", help="training batches for batch-norm's statistics (8)"
    )
    export.add_argument(
        "--fine-tuning", type=int, metavar="B", help="training batches between two decisions of DARTS-PT (0)"
    )
    export.add_argument("--max-params", metavar="P", help="leave out larger networks, and look for others; 300k, 1M")
    export.add_argument("--max-flops", metavar="F", help="the same for operations per image")
    export.add_argument(
        "--max-latency", metavar="MS", help="the same for milliseconds per image, on one thread of this CPU"
    )
    export.add_argument(
        "--pareto",
        choices=("params", "flops", "latency"),
        default="params",
        help="cost by which to list the candidates that no other beats in score and cost (params)",
    )
    export.add_argument("--workers", type=int, metavar="W", help="processes that score in parallel (1)")
    export.add_argument(
        "--table",
        type=Path,
        help="ground truth to add (default: in BALENAS_DATA, else what ships; BALENAS_GROUND_TRUTH=off: none)",
    )
    export.set_defaults(run_command=_export)


def _export(options: argparse.Namespace) -> int:
    require_run(options.run)
    require_table(options.table)
    from balenas_plugin.errors import OptionError
    from balenas_plugin.ground_truth import open_table
    from balenas_plugin.options import PositiveInt, checked
    from balenas_plugin.run_folder import RunFolder
    from balenas_plugin.search_spaces import DEFAULT_SPACE, find_space, get_space
    from balenas_plugin.selection.candidates import report_fewer
    from balenas_plugin.selection.proxy_selection import ProxySelection, named_selection

    checked("--top", options.top, PositiveInt)
    given = {field.name: getattr(options, field.name) for field in fields(ProxySelection)}
    given |= {name: read_limit(name, given[name]) for name in ("max_params", "max_flops", "max_latency")}
    selection = replace(
        named_selection(options.selection), **{name: value for name, value in given.items() if value is not None}
    )
    formats = options.format or ["json", "csv"]
    output = options.output or options.run / ("export" if options.epoch is None else f"export-epoch-{options.epoch}")
    if RunFolder(output).manifest.exists():
        raise OptionError(
            f"--output {output} is the folder of a run, whose architectures.json would be lost. Choose another folder, "
            f"for example {output / 'export'}."
        )
    space = find_space(RunFolder(options.run).read_config().space["name"]) or get_space(DEFAULT_SPACE)
    open_table(space, options.table)  # as with onnx below: what is missing is reported before the work
    if "onnx" in formats:
        from balenas_plugin.export.onnx_file import require_onnx

        require_onnx()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from balenas_plugin.adapters.nni.run.finished_run import FinishedRun, write_exports
        from balenas_plugin.report.pareto import Front
    run = FinishedRun.load(RunFolder(options.run), epoch=options.epoch)
    costs = tuple(dict.fromkeys([options.pareto, "params", "flops"]))
    everything = run.rank(selection, table=options.table, costs=costs, progress=True)
    ranked = everything[: options.top]
    report_fewer(len(ranked), options.top, selection)
    _print_ranking(ranked, selection.proxies)
    front = Front.of(everything, options.pareto, by_rank=len(selection.proxies) > 1 or selection.include_probability)
    _print_front(front)
    written = write_exports(run, ranked, formats, output, front=front)
    print(f"\n{len(written)} files written to {output}")
    if options.epoch is not None:
        inherits = selection.needs_supernet or {"python", "onnx"} & set(formats)
        weights = "those of the last epoch (earlier ones are not kept)" if inherits else "not looked at"
        print(f"Posterior: of epoch {options.epoch}. Weights of the supernet: {weights}.")
    return 0


def _print_ranking(ranked: Sequence[Any], proxies: Sequence[str]) -> None:
    shown = [name for name in proxies if name not in ("probability", "params")]  # which have their columns
    titles = "".join(f"{name:>11}  " for name in shown)
    costs = f"{'params':>9}  {'MFLOPs':>7}" + (f"  {'ms':>7}" if ranked[0].latency is not None else "")
    print(f"\n{'rank':>4}  {'stability':>9}  {'probability':>11}  {titles}{costs}  architecture")
    for found in ranked:
        name = next(iter(found.notation.values()), json.dumps(found.choices))
        values = "".join(f"{found.scores[title]:{max(11, len(title))}.5g}  " for title in shown)
        costs = f"{found.params:9,.0f}  {found.flops / 1e6:7.4g}"
        costs += "" if found.latency is None else f"  {found.latency:7.3g}"
        print(f"{found.rank:>4}  {found.stability:9.2f}  {found.probability:11.3g}  {values}{costs}  {name}")
    if ranked[0].latency_by is not None:
        print(f"ms: one image by {ranked[0].latency_by}, on one thread of this machine's CPU")


def _print_front(front: Any) -> None:
    (cost, merit, _), rows = front.table()
    count = len(front.candidates)
    print(f"\nOf {count} candidate{'s' * (count != 1)}, no other beats these in {merit} and {cost} both:")
    for price, worth, name in [(cost, merit, "architecture"), *rows[:_LISTED]]:
        print(f"{price:>{max(12, len(cost))}}  {worth:>{max(12, len(merit))}}  {name}")
    if len(rows) > _LISTED:
        print(f"and {len(rows) - _LISTED} more, in pareto.json")

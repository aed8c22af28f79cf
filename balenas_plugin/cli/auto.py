"""`balenas auto`: from a folder of images to a network that is tested, compared and ready to be used."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balenas_plugin.cli.inputs import read_limit
from balenas_plugin.files import expanded, temporary_of

if TYPE_CHECKING:
    from balenas_plugin.auto.delivery import Delivered

_EXAMPLES = """\
examples:
  balenas auto --images photos/ --dry-run                 what it would do and how long that would take; nothing else
  balenas auto --images photos/ --budget 2h --max-params 1M
  balenas auto --images photos/ --output runs/photos --resume    go on after a crash or Ctrl-C, by the same plan

The folder has one folder of images per class, or folders train, val and test above the classes; where it has no test, a
fifth of each class is held out. Its images are searched for, trained on and tested on; a ResNet-18 that is trained for
as long is the yardstick, and is what you get where it is better. The output is report.html, auto.json, plan.yml and
delivered/: network.onnx, classify.py and weights.safetensors.
"""


def add_auto(commands: Any, formatter: Any) -> None:
    """Add `balenas auto`."""
    auto = commands.add_parser(
        "auto",
        help="make a network for a folder of images: search, train, test, ONNX file, page",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    auto.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="one folder of images per class")
    auto.add_argument("--budget", default="1h", metavar="TIME", help="in all: 45s, 20m, 2h, 1h30m (1h)")
    auto.add_argument("--max-params", metavar="P", help="most parameters of the network, such as 300k or 1M")
    auto.add_argument("--max-flops", metavar="F", help="most floating-point operations for an image, such as 50M")
    auto.add_argument("--max-latency", metavar="MS", help="most milliseconds for an image, on one thread of this CPU")
    auto.add_argument("--seed", type=int, default=0, help="random seed (0)")
    auto.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be decoded")
    auto.add_argument("--int8", action="store_true", help="deliver a network of 8-bit numbers as well")
    auto.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (runs/auto-FOLDER), outside of --images"
    )
    auto.add_argument(
        "--dry-run", action="store_true", help="say what would be done and how long it would take, and end"
    )
    existing = auto.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue an interrupted run, by its plan")
    existing.add_argument("--overwrite", action="store_true", help="delete the run that is in --output first")
    auto.set_defaults(run_command=_auto)


def _auto(options: argparse.Namespace) -> int:
    started = time.monotonic()
    from balenas_plugin.auto.auto_plan import PLAN, Limits, read_budget
    from balenas_plugin.auto.pipeline import Wanted, plan_run, run_auto
    from balenas_plugin.deployment import require_deployable
    from balenas_plugin.options import Seed, checked
    from balenas_plugin.run_folder.marker import RunMarker
    from balenas_plugin.signals import stopped_by_signals

    limits = {name: getattr(options, name) for name in ("max_params", "max_flops", "max_latency")}
    wanted = Wanted(
        images=options.images,
        budget=read_budget(options.budget),
        limits=Limits(**{name: read_limit(name, text) for name, text in limits.items()}),
        seed=checked("--seed", options.seed, Seed),
        skip_unreadable=options.skip_unreadable,
    )
    output = _output(options.output, options.images)
    if options.dry_run:
        plan_run(wanted, None, started=started)
        return 0
    require_deployable()
    existing = {"resume": options.resume, "overwrite": options.overwrite}
    try:
        with stopped_by_signals():
            planned = None if _prepared(output, **existing) else plan_run(wanted, output, started=started)
            with RunMarker(output).locked(0, folder=True):
                _prepared(output, **existing)  # again, as looking takes its time
                RunMarker(output).write(replacing=False)
                if options.overwrite:
                    _empty(output)
                delivered = run_auto(wanted, output, planned, started=started, int8=options.int8)
    except KeyboardInterrupt:
        if not (output / PLAN).exists():
            raise
        words = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
        again = shlex.join([*words, *([] if options.output else ["--output", str(output)]), "--resume"])
        print(f"balenas: stopped. To go on by the same plan: balenas {again}", file=sys.stderr)
        return 130
    _print(delivered)
    return 0


def _output(given: Path | None, images: Path) -> Path:
    """Return the folder to write to, which is never inside the images."""
    from balenas_plugin.errors import OptionError

    folder = expanded(images).resolve()
    output = given or Path("runs", f"auto-{folder.name}")
    if not output.resolve().is_relative_to(folder):
        return output
    if given is not None:
        raise OptionError(f"--output {given} lies inside the images: choose a folder outside of {folder}")
    return folder.parent / output


def _prepared(output: Path, *, resume: bool, overwrite: bool) -> bool:
    """Refuse a folder that holds something else, or a run that is not to be touched; return whether one is resumed."""
    from balenas_plugin.auto.auto_plan import PLAN
    from balenas_plugin.auto.pipeline import LEFT_OUT
    from balenas_plugin.errors import OptionError, StorageError
    from balenas_plugin.run_folder.marker import MARKER

    try:
        names = {path.name for path in output.iterdir() if not temporary_of(path.name)} if output.exists() else set()
    except OSError as error:
        raise StorageError(f"cannot look into {output}: {error.strerror}. Choose another --output.") from error
    own = MARKER in names and names <= {MARKER, LEFT_OUT}  # it ended before it began
    own |= PLAN in names and (resume or MARKER in names)
    if names and not own:
        raise OptionError(f"{output} holds something else than a run of `balenas auto`: choose another --output")
    if PLAN in names and not (resume or overwrite):
        raise OptionError(
            f"there is a run in {output}: --resume continues it, --overwrite replaces it, another --output leaves it "
            "alone"
        )
    return resume and PLAN in names


def _empty(output: Path) -> None:
    from balenas_plugin.run_folder.marker import MARKER

    for path in output.iterdir():
        if path.name != MARKER:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _print(delivered: Delivered) -> None:
    from balenas_plugin.auto.auto_page import CALLED, comparison, verdict

    print(f"\n{'':<24}" + "".join(f"{CALLED[name]:>24}" for name in delivered.tested))
    for title, *texts in comparison(delivered):
        print(f"{title:<24}" + "".join(f"{text:>24}" for text in texts))
    print(
        f"\n{verdict(delivered)}\n\n{delivered.deployed.table()}\n\nEverything about it: {delivered.output}/report.html"
    )

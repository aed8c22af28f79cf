"""`balenas schema`: by which an editor completes and checks configs."""

from __future__ import annotations

import argparse
import json
import warnings
from typing import Any

_EXAMPLES = """\
example:
  balenas schema > schema.json

An editor with a YAML language server (VS Code with the extension YAML, Neovim, PyCharm) then completes, describes and
checks the options of a config whose first line is
  # yaml-language-server: $schema=schema.json
The configs that come with this package have it. Make it anew after another version of torch, or a package with
proxies or distributions of its own, is installed.
"""


def add_schema(commands: Any, formatter: Any) -> None:
    """Add `balenas schema`."""
    schema = commands.add_parser(
        "schema",
        help="print the JSON schema of configs, for editors",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    schema.set_defaults(run_command=_schema)


def _schema(options: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NNI warns about every class of a torch newer than itself
        from balenas_plugin.adapters.nni.run.config_schema import config_schema

    print(json.dumps(config_schema(), indent=1))
    return 0

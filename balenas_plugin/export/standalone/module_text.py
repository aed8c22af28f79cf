"""The text of a stand-alone module around the classes of its network."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from balenas_plugin.data.network_task import NetworkTask
from balenas_plugin.export.standalone.calls import RESERVED
from balenas_plugin.export.standalone.classes import ClassWriter
from balenas_plugin.export.standalone.expressions import Block, Expression, to_source

_DEFINED = (
    *("build", "load", "Path", "Any", "OrderedDict", "WEIGHTS", "INPUT_SHAPE", "TABLES"),
    *("CLASS_NAMES", "IMAGE_SIZE", "MEAN", "STD", "preprocess", "upright_rgb", "central_square"),
    *RESERVED,
)

_HEAD = """\
# {title}
#
# Written by balenas-plugin. Needs Python 3.9 and PyTorch, and nothing else.
#     build()   the network with fresh weights, drawn as PyTorch's layers draw them
#     load()    the network with the exported weights, from {name}.pt beside this file, in eval mode
{about_task}# Run the file to see the shape of an output.

from __future__ import annotations

{imports}

WEIGHTS = Path(__file__).with_suffix(".pt")
INPUT_SHAPE = {shape}


"""

_ABOUT_TASK = """\
#     preprocess(image)   what the network takes for a picture, as it was trained (needs Pillow)
#     CLASS_NAMES         what its outputs stand for
"""

_BUILD = '''\
def build() -> nn.Module:
    """Return the network with fresh weights."""
    return {new}
'''

_BUILD_WITH_TABLES = '''\
TABLES = (
{tables}
)


def build() -> nn.Module:
    """Return the network with fresh weights; TABLES, which are not trained, come from WEIGHTS."""
    network = {new}
    weights = torch.load(WEIGHTS, map_location="cpu", weights_only=True)
    network.load_state_dict({{key: weights[key] for key in TABLES}}, strict=False)
    return network
'''

_TAIL = '''

def load(path: str | Path | None = None) -> nn.Module:
    """Return the network with the weights in `path` (WEIGHTS unless given), in eval mode."""
    network = {new}
    network.load_state_dict(torch.load(path or WEIGHTS, map_location="cpu", weights_only=True))
    return network.eval()


if __name__ == "__main__":
    with torch.no_grad():
        print(tuple(load()(torch.zeros(INPUT_SHAPE{dtype})).shape))
'''


def module_text(
    root: Expression,
    *,
    name: str,
    title: str,
    example: Tensor,
    ties: dict[str, str],
    frozen: list[str],
    tables: list[str],
    task: NetworkTask | None = None,
) -> str:
    """Return the source of the module.

    Args:
        root: the expression that constructs the network.
        name: of the module.
        title: what the network is; any text.
        example: an input, for its shape and type.
        ties: place -> an earlier place that holds the same tensor, both as source that begins with ``network``.
        frozen: places of parameters of layers that are not trained, as source that begins likewise.
        tables: keys of the weights that belong to the network without being trained.
        task: that it was trained for.
    """
    writer = ClassWriter(root, reserved=_DEFINED)
    definitions = [writer.definitions] if writer.definitions else []
    changes = [f"    {place} = {earlier}" for place, earlier in ties.items()]
    changes += [f"    {place}.requires_grad_(False)" for place in frozen]
    if isinstance(root, Block) and not changes:
        (new,) = writer.root_lines("", indent=0)
    else:
        new = "_network()"
        lines = ["def _network() -> nn.Module:"]
        if changes:
            lines += [*writer.root_lines("network = ", indent=1), *changes, "    return network"]
        else:
            lines += writer.root_lines("return ", indent=1)
        definitions.append("\n".join(lines))
    if task is not None:
        definitions.append(task.source().rstrip())
    code = "\n\n\n".join(definitions)
    keys = "\n".join(f"    {to_source(key)}," for key in tables)
    return (
        _HEAD.format(
            title=_comment(title),
            name=name,
            about_task=_ABOUT_TASK if task is not None else "",
            imports=_imports(code),
            shape=tuple(example.shape),
        )
        + f"{code}\n\n\n"
        + (_BUILD_WITH_TABLES if tables else _BUILD).format(new=new, tables=keys)
        + _TAIL.format(new=new, dtype="" if example.dtype == torch.float32 else f", dtype={example.dtype}")
    )


def _imports(code: str) -> str:
    """Return the import statements that `code` and the functions after it need."""

    def used(name: str) -> bool:
        return re.search(rf"(?<![\w.]){name}\b", code) is not None

    standard = [f"import {module}" for module in ("math", "operator") if used(rf"{module}\.")]
    standard += ["from typing import Any"] if used("Any") else []
    standard += ["from collections import OrderedDict"] if used("OrderedDict") else []
    functional = ["import torch.nn.functional as F"] if used(r"F\.") else []
    names = "Tensor, nn" if used("Tensor") else "nn"
    return "\n".join(
        [*standard, "from pathlib import Path", "", "import torch", *functional, f"from torch import {names}"]
    )


def _comment(text: str) -> str:
    """Return `text` fit for comment lines: line breaks become new comment lines, other controls spaces."""
    lines = ["".join(letter if letter.isprintable() else " " for letter in line) for line in text.splitlines()]
    return "\n# ".join(lines)

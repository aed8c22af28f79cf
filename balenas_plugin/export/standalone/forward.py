"""Write a traced graph as the body of a `forward`."""

from __future__ import annotations

import inspect
import keyword
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from balenas_plugin.export.standalone.calls import RESERVED
from balenas_plugin.export.standalone.expressions import NotExportableError, to_source
from balenas_plugin.export.standalone.tracing import Forward, is_container, is_numbered

_INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
}
_NAMESPACES: tuple[tuple[str, Any], ...] = (
    ("F", F),
    ("torch", torch),
    ("torch.Tensor", torch.Tensor),
    ("torch.linalg", torch.linalg),
    ("torch.special", torch.special),
    ("torch.fft", torch.fft),
    ("operator", operator),
    ("math", math),
)
_STEP = re.compile(r"(?P<variable>\w+) = (?P<container>self[\w.]*)\[(?P<index>\d+)\]\((?P=variable)\)")
"""A layer of a container, called with a variable and assigned to it."""

_READS = ("size", "dim")
"""Methods that read a tensor's shape: written inside the expression that uses them."""


def is_name(text: str) -> bool:
    """Return whether `text` can follow a dot in Python source."""
    return text.isidentifier() and not keyword.iskeyword(text)


def forward_lines(module: nn.Module, forward: Forward) -> tuple[str, ...]:
    """Return the definition of a `forward` that computes what `forward` does; the module is called ``self``.

    Where the two modes differ in nothing but the flag that a function takes, the flag is ``self.training``; where they
    differ in more, both are written.

    Raises:
        NotExportableError: the graph calls a function that is not PyTorch's.
    """
    arguments = ", ".join(argument.declaration for argument in forward.calls.arguments)
    head = f"def forward(self, {arguments}){forward.calls.returns}:"
    evaluation = _Body(module, forward, training=False).lines
    training = _Body(module, forward, training=True).lines
    if len(evaluation) == len(training):
        merged = [line for pair in zip(evaluation, training, strict=True) for line in _merge(*pair)]
        if len(merged) == len(training):
            return (head, *_indent(_loops(merged), 1))
    return (head, "    if self.training:", *_indent(_loops(training), 2), *_indent(_loops(evaluation), 1))


def attribute_path(module: nn.Module, target: str, root: str = "self") -> str:
    """Return the source that reads the attribute `target`, a dotted path, of `module`."""
    source, owner = root, module
    for atom in target.split("."):
        found = getattr(owner, atom, None)
        if is_container(owner) and isinstance(owner, nn.ModuleDict):
            source += f"[{to_source(atom)}]"
        elif atom.isdigit() and (is_container(owner) or is_numbered(owner)):
            source += f"[{list(owner._modules).index(atom)}]"
        elif is_name(atom):
            source += f".{atom}"
        else:
            kind = "submodule" if isinstance(found, nn.Module) else _tensor_kind(owner, atom)
            source += f".get_{kind}({to_source(atom)})"
        owner = found if isinstance(found, nn.Module) else owner
    return source


def _tensor_kind(owner: nn.Module, name: str) -> str:
    return "parameter" if name in owner._parameters else "buffer"


def _merge(evaluation: str, training: str) -> list[str]:
    """Return the one line for both modes, or none if they differ in more than the flag."""
    if evaluation == training:
        return [evaluation]
    merged = evaluation.replace("training=False", "training=self.training")
    return [merged] if merged == training.replace("training=True", "training=self.training") else []


def _loops(lines: Sequence[str]) -> list[str]:
    """Return `lines` with a loop in the place of three or more that call successive layers of one container."""
    written: list[str] = []
    start = 0
    while start < len(lines):
        steps = [_STEP.fullmatch(line) for line in lines[start:]]
        first, length = steps[0], 1
        while first and length < len(steps) and _follows(steps[length], first, length):
            length += 1
        if first and length > 2:
            variable, container, index = first["variable"], first["container"], int(first["index"])
            bounds = f"{index}, {index + length}" if index else f"{length}"
            written += [f"for index in range({bounds}):", f"    {variable} = {container}[index]({variable})"]
        else:
            written += lines[start : start + length]
        start += length
    return written


def _follows(step: re.Match[str] | None, first: re.Match[str], distance: int) -> bool:
    return (
        step is not None
        and step.group("variable", "container") == first.group("variable", "container")
        and int(step["index"]) == int(first["index"]) + distance
    )


def _indent(lines: Iterable[str], levels: int) -> list[str]:
    return [f"{'    ' * levels}{line}" for line in lines]


class _Body:
    """The statements of one graph, in its order; a straight chain from an input keeps the input's name."""

    def __init__(self, module: nn.Module, forward: Forward, *, training: bool) -> None:
        self._module = module
        self._sources: dict[fx.Node, str] = {}
        self._inputs = {name: access for each in forward.calls.arguments for name, access in each.tensors.items()}
        self._taken = {*RESERVED, *(argument.name for argument in forward.calls.arguments)}
        self._chain = {name for name, access in self._inputs.items() if name == access}
        self.lines: list[str] = []
        for node in forward.graphs[training].nodes:
            self._add(node)

    def _add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._sources[node] = self._inputs[str(node.target)]
        elif node.op == "get_attr":
            self._sources[node] = attribute_path(self._module, str(node.target))
        elif node.op == "output":
            self._return(node.args[0])
        elif _inlined(node):
            self._sources[node] = self._expression(node)
        elif not node.users:
            self.lines.append(self._expression(node))
        else:
            expression = self._expression(node)
            self._sources[node] = self._variable(node)
            self.lines.append(f"{self._sources[node]} = {expression}")

    def _return(self, output: Any) -> None:
        source = self._argument(output)
        last = self.lines[-1].partition(" = ") if self.lines else ("", "", "")
        if isinstance(output, fx.Node) and last[0] == source:
            self.lines[-1] = f"return {last[2]}"
        else:
            self.lines.append(f"return {source}")

    def _variable(self, node: fx.Node) -> str:
        first = node.args[0] if node.args else None
        if isinstance(first, fx.Node) and self._sources[first] in self._chain and _only_use(first, node):
            return self._sources[first]
        wanted, numbered = self._wanted_name(node)
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        if numbered:
            self._chain.add(name)
        return name

    def _wanted_name(self, node: fx.Node) -> tuple[str, bool]:
        """Return a name for the value of `node`, and whether a chain of layers without names begins with it."""
        wanted = str(node.target).replace(".", "_") if node.op == "call_module" else node.name
        wanted = "".join(letter if letter.isalnum() else "_" for letter in wanted).strip("_")
        last_digit = node.op == "call_module" and wanted[-1:].isdigit()
        return (wanted if is_name(wanted) else "y"), last_digit

    def _expression(self, node: fx.Node) -> str:
        args = [*map(self._argument, node.args)]
        if node.op == "call_module":
            return f"{attribute_path(self._module, str(node.target))}({self._call(args, node.kwargs)})"
        if node.op == "call_method":
            return f"{_operand(args[0])}.{node.target}({self._call(args[1:], node.kwargs)})"
        return self._function(node, node.target, args)

    def _function(self, node: fx.Node, function: Any, args: list[str]) -> str:
        if function is getattr and len(args) == 2 and is_name(str(node.args[1])):
            return f"{_operand(args[0])}.{node.args[1]}"
        if function is operator.getitem:
            return f"{_operand(args[0])}[{self._index(node.args[1])}]"
        if function in _INFIX and len(args) == 2 and not node.kwargs:
            return f"{_operand(args[0])} {_INFIX[function]} {_operand(args[1])}"
        defaults = _defaults(function)
        given = {name: value for name, value in node.kwargs.items() if name not in defaults or defaults[name] != value}
        return f"{_public_name(function)}({self._call(args, given)})"

    def _call(self, args: Iterable[str], kwargs: dict[str, Any]) -> str:
        return ", ".join([*args, *(f"{name}={self._argument(value)}" for name, value in kwargs.items())])

    def _index(self, index: Any) -> str:
        if isinstance(index, tuple) and index:
            entries = [self._index(entry) for entry in index]
            return ", ".join(entries) + ("," if len(entries) == 1 else "")
        if isinstance(index, slice):
            bounds = ["" if bound is None else self._argument(bound) for bound in (index.start, index.stop, index.step)]
            return ":".join(bounds if bounds[2] else bounds[:2])
        return self._argument(index)

    def _argument(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self._sources[value]
        if isinstance(value, slice):
            return f"slice({', '.join(map(self._argument, (value.start, value.stop, value.step)))})"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{to_source(key)}: {self._argument(entry)}' for key, entry in value.items())}}}"
        if isinstance(value, tuple):
            entries = [self._argument(entry) for entry in value]
            return f"({', '.join(entries)}{',' if len(entries) == 1 else ''})"
        if isinstance(value, list):
            return f"[{', '.join(map(self._argument, value))}]"
        return to_source(value)


def _inlined(node: fx.Node) -> bool:
    """Return whether `node` reads an attribute, a shape or an entry, which costs nothing and changes nothing."""
    if node.op == "call_method":
        return node.target in _READS and len(node.users) == 1
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return isinstance(node.args[1], int) and node.args[1] >= 0  # one from the end may change with an append
    return node.target is getattr


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments of `function` that need not be given; never ``training``, which depends on the mode."""
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):  # written in C
        return {}
    return {
        name: each.default for name, each in parameters.items() if each.default is not each.empty and name != "training"
    }


def _only_use(value: fx.Node, node: fx.Node) -> bool:
    """Return whether `node` is the one statement that reads `value`, reads of its shape within `node` included."""
    return all(user is node or (_inlined(user) and _only_use(user, node)) for user in value.users)


def _operand(source: str) -> str:
    """Return `source` fit to stand beside an operator or before a dot."""
    return source if source[0].isalnum() or source[0] in "_([" else f"({source})"


def _public_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "")
    for prefix, namespace in _NAMESPACES:
        if name and getattr(namespace, name, None) is function:
            return f"{prefix}.{name}"
    home = getattr(function, "__module__", None) or "an unknown module"
    raise NotExportableError(
        f"its forward calls {name or repr(function)} of {home}, and a stand-alone module has PyTorch's functions only"
    )

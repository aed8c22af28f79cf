"""What every choice of a search space costs, measured or counted, as a file."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from balenas_plugin.errors import FileFormatError, OptionError, nearest
from balenas_plugin.files import expanded, read_text, write_text_atomically
from balenas_plugin.machine import processor
from balenas_plugin.options import NonNegative, NonNegativeInt, PositiveInt, declared_options, read_options

FORMAT = "balenas_plugin/costs"

Measure = Literal["latency", "flops", "params"]

Runtime = Literal["torch", "onnxruntime"]


@declared_options(called="a table of costs")
@dataclass(frozen=True, kw_only=True)
class CostTable:
    """The cost of each choice, which add up to the cost of an architecture.

    Args:
        costs: label -> choice -> its cost, of all modules that share the label.
        fixed: cost of what is in every architecture.
        measure: "latency", "flops" or "params".
        unit: of the costs.
        space: name of the model space's class.
        parameters: how many parameters its supernet has, alphas not counted.
        machine: name of the one that was measured on; empty where costs were counted.
        processor: of the machine; a GPU if that was measured.
        device: "cpu" or "cuda".
        threads: of torch.
        torch: its version.
        runtime: what has computed, "torch" or "onnxruntime".
        batch_size: images at a time.
        image_shape: (channels, height, width).
        repeats: of which each latency is the median.

    Raises:
        OptionError: an entry has a wrong type or is out of range.
    """

    costs: dict[str, dict[str, NonNegative]]
    fixed: NonNegative
    measure: Measure
    unit: str
    space: str
    parameters: NonNegativeInt
    machine: str = ""
    processor: str = ""
    device: str = ""
    threads: PositiveInt = 1
    torch: str = ""
    runtime: Runtime = "torch"
    batch_size: PositiveInt = 1
    image_shape: tuple[PositiveInt, ...] = ()
    repeats: PositiveInt = 1

    @property
    def least(self) -> float:
        """Cost of the cheapest architecture."""
        return self.fixed + sum(min(by_choice.values(), default=0.0) for by_choice in self.costs.values())

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            StorageError: the file could not be written.
        """
        write_text_atomically(Path(path), json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> CostTable:
        """Read a table that `save` wrote.

        Raises:
            FileFormatError: the file is missing, corrupt, or something else.
        """
        try:
            document = json.loads(read_text(expanded(path)))
        except (OSError, ValueError, RecursionError) as error:
            raise FileFormatError(
                f"cannot read the table of costs {path}: {error}. `balenas latency CONFIG` measures one"
            ) from error
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise FileFormatError(f"{path} is not a table of costs of this package (no format {FORMAT!r} in it)")
        try:
            return read_options(cls, document, called=f"the table of costs {path}")
        except OptionError as error:
            raise FileFormatError(f"the table of costs {path} is damaged: {error}") from error

    def require_this_machine(self, path: str, device_name: str | None) -> None:
        """Refuse latencies that were measured on another machine than this one.

        Args:
            path: of the table's file.
            device_name: of this machine's GPU, None if it has none.

        Raises:
            OptionError: it is another one.
        """
        here = platform.node(), device_name if self.device == "cuda" else processor()
        if (self.machine, self.processor) != here:
            raise OptionError(
                f"the latencies in {path} were measured on {self.machine} ({self.processor}), and this is {here[0]} "
                f"({here[1] or 'without a GPU'}): measure here with `balenas latency`, or say other_machine: true in "
                "the cost if you search for that machine"
            )

    def rows(
        self, space: str, parameters: int, choices: Mapping[str, Sequence[str]], *, path: str
    ) -> dict[str, list[float]]:
        """Return label -> cost of each choice in their order.

        Args:
            space: name of the class of the space that is searched.
            parameters: of its supernet.
            choices: label -> names of the choices of its supernet.
            path: of the table's file, for messages.

        Raises:
            OptionError: the table is of another space, or of one of another size.
        """
        own = {label: set(names) for label, names in choices.items()}
        other = {label: set(by_choice) for label, by_choice in self.costs.items()}
        problem = ""
        if space != self.space:
            problem = f"is of the space {self.space}, and {space} is searched"
        elif own != other:
            label = min(label for label in own.keys() | other.keys() if own.get(label) != other.get(label))
            problem = f"is of a space with other choices (label {label!r}){nearest(label, other).rstrip('.')}"
        elif parameters != self.parameters:
            problem = (
                f"is of a supernet of {self.parameters:,} parameters, and this one has {parameters:,}: another width, "
                "depth or number of classes"
            )
        if problem:
            raise OptionError(f"the table of costs {path} {problem}. Measure this one: balenas latency CONFIG")
        return {label: [self.costs[label][name] for name in names] for label, names in choices.items()}

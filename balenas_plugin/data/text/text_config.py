"""Options of a text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from balenas_plugin.data.text.text_sources import TEXTS
from balenas_plugin.data.text.text_streams import Lengths
from balenas_plugin.errors import OptionError
from balenas_plugin.options import OneOf, PositiveInt, declared_options

_Place = Annotated[str | os.PathLike[str], Field(json_schema_extra={"errorMessage": "the path of a folder"})]


@declared_options("data")
@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Say which text to search on, and how to cut it into sequences.

    Attributes:
        name: "text" (train.txt, valid.txt and test.txt in <root>, or NAME.train.txt and so on; words between white
            space) or "python_docs" (the language reference of Python's help(), nothing to download).
        root: folder of the texts; "text" falls back on the environment variable BALENAS_DATA, "python_docs" ignores it.
        batch_size: rows that a text is cut into, which are read side by side; in each process its share of them.
        bptt: words of a sequence, through which gradients go; the hidden state goes on to the next.
        lengths: how many words the sequences have that train the weights. "fixed": bptt each; "halved": every twentieth
            has half of that, as in DARTS's search; "normal": normal around these by five words, as DARTS trains a
            network. Where they are random, the learning rate of a sequence is multiplied by its length / bptt.
        vocabulary: most words that are distinguished, the most frequent ones of the training text; the others, and
            those of the other texts, are <unk>. None: all of the training text.
        limit: use only so many first words of each text, for quick trials; None uses all.

    Raises:
        OptionError: an option has a wrong name, type or value.
    """

    name: Annotated[str, OneOf(lambda: TEXTS)] = "python_docs"
    root: _Place | None = None
    batch_size: Annotated[int, Field(ge=2)] = 64  # the supernet's batch-norm needs two
    bptt: PositiveInt = 35
    lengths: Lengths = "fixed"
    vocabulary: Annotated[int, Field(ge=2)] | None = None
    limit: Annotated[int, Field(ge=2)] | None = None

    def __post_init__(self) -> None:
        if self.root == "":
            raise OptionError("data.root must be the path of a folder, got ''; or leave it out")
        if self.root is not None:
            object.__setattr__(self, "root", os.fspath(self.root))  # a string, for JSON and YAML

"""The texts by name; a new one is a function here and a line in `TEXTS`.

A text is a list of words in which each line ends with `END`, as in the language models of the Penn Treebank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from balenas_plugin.data.sources.location import data_folder
from balenas_plugin.errors import DataError
from balenas_plugin.files import read_text

PARTS = ("train", "valid", "test")

END, UNKNOWN = "<eos>", "<unk>"
"""Words that stand for the end of a line, and for all words that are not in the vocabulary."""

_LARGEST = 2**30
"""Bytes of a file: more would not fit in memory as words."""


def split_lines(text: str) -> list[str]:
    """Return the words of a text: what white space separates, and END after each line, however lines end."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.removesuffix("\n").split("\n")
    return [word for line in lines for word in (*line.split(), END)]


def split_paragraphs(text: str) -> list[str]:
    """Return the words of a text: in lower case, each sign one, a number as N, and END after each paragraph."""
    import re

    found = (re.findall(r"[^\W\d_]+|\d+|[^\w\s]|_", paragraph.lower()) for paragraph in text.split("\n\n"))
    return ["N" if word.isdigit() else word for words in found if words for word in (*words, END)]


def read_folder(part: str, root: str | None) -> list[str]:
    """Read one of the three texts of a folder: train.txt, valid.txt and test.txt, or NAME.train.txt and so on.

    Words are what white space separates, as in Mikolov's form of the Penn Treebank.

    Raises:
        DataError: there is no such file, or several, or it is empty, too large or not in UTF-8.
    """
    path = _find(data_folder(root, name="text"), part)
    try:
        text = read_text(path, most=_LARGEST)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not in UTF-8 (byte {error.start:,} does not belong there): write it in UTF-8, for example with "
            "iconv"
        ) from error
    except OSError as error:
        raise DataError(f"the text {path} cannot be read: {error.strerror or error}") from error
    if not text.strip("\ufeff \t\r\n"):
        raise DataError(f"{path} is empty: a text of some thousand words is needed")
    return split_lines(text)


def _find(folder: Path, part: str) -> Path:
    own = folder / f"{part}.txt"
    try:
        found = [own] if own.exists() else sorted(folder.glob(f"*.{part}.txt"))
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    if len(found) != 1:
        many = (
            f"has several texts for it, {', '.join(path.name for path in found[:3])}: keep one"
            if found
            else ("has no such file" if folder.is_dir() else "is no folder")
        )
        raise DataError(f"the text to {USES[part]} is {part}.txt or NAME.{part}.txt, and {folder} {many}")
    return found[0]


USES = {"train": "train on", "valid": "learn the architecture on", "test": "test on"}
"""What each of the parts is for."""


def read_python_docs(part: str, root: str | None) -> list[str]:
    """Return a part of the language reference that Python's ``help()`` shows, which every Python has.

    Of ten topics in alphabetic order eight are for training, one for validation and one for the test. Words are in
    lower case, each sign is one, and a number is N; paragraphs end with `END`. About 120,000 words of 3,300 different
    ones in all, which depends a little on the version of Python.
    """
    from pydoc_data.topics import topics

    wanted = {"train": range(8), "valid": (8,), "test": (9,)}[part]
    chosen = (topics[name] for k, name in enumerate(sorted(topics)) if k % 10 in wanted)
    return [word for topic in chosen for word in split_paragraphs(topic)]


TEXTS: Mapping[str, Callable[[str, str | None], list[str]]] = {"text": read_folder, "python_docs": read_python_docs}
"""Each is called with the part, one of `PARTS`, and the folder."""

SPLITS: Mapping[str, Callable[[str], list[str]]] = {"text": split_lines, "python_docs": split_paragraphs}
"""How a text becomes words there; exported modules hold the source of these functions."""

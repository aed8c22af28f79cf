"""What a network for text was trained for: how a text becomes its input, and what its outputs stand for."""

from __future__ import annotations

import inspect
import json
import pprint
from dataclasses import dataclass
from typing import Any

from balenas_plugin.data.text.text_sources import END, SPLITS, UNKNOWN

_SOURCE = '''\
END, UNKNOWN = "<eos>", "<unk>"  # the end of a line or a paragraph; any word that is not in the vocabulary

VOCABULARY = {vocabulary}

_NUMBERS = {{word: number for number, word in enumerate(VOCABULARY)}}


def encode(text: str) -> torch.Tensor:
    """Return the numbers of a text's words, int64, shape (1, words), as the network takes them."""
    unknown = _NUMBERS[UNKNOWN]
    return torch.tensor([[_NUMBERS.get(word, unknown) for word in {split}(text)]], dtype=torch.int64)


def decode(numbers: torch.Tensor) -> list[str]:
    """Return the words of numbers, of any shape, such as ``network(words).argmax(1)``: what comes next."""
    return [VOCABULARY[number] for number in numbers.flatten().tolist()]


{function}'''


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """Predict the next word of a text.

    Attributes:
        vocabulary: word 0, 1, ...
        split: how a text becomes words, one of `SPLITS`.
    """

    vocabulary: tuple[str, ...]
    split: str

    @property
    def input_name(self) -> str:
        """What the input of an ONNX file is called."""
        return "words"

    def to_dict(self) -> dict[str, Any]:
        """Return the task as plain values for JSON."""
        how = (inspect.getdoc(SPLITS[self.split]) or "").partition(": ")[2]
        return {"vocabulary": list(self.vocabulary), "end_of_line": END, "unknown_word": UNKNOWN, "split": how}

    def metadata(self) -> dict[str, str]:
        """Return name -> text, in JSON where it is no text, for files whose metadata are texts."""
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in self.to_dict().items()}

    def source(self) -> str:
        """Return Python source that defines VOCABULARY, `encode(text)` and `decode(numbers)`; it needs `torch`."""
        split = SPLITS[self.split]
        vocabulary = pprint.pformat(self.vocabulary, width=110, compact=True)
        return _SOURCE.format(vocabulary=vocabulary, split=split.__name__, function=inspect.getsource(split))

"""The text of a module that builds one recurrent network and needs nothing but PyTorch."""

from __future__ import annotations

import inspect
from typing import cast

from torch import nn

from . import recurrent_network
from .recurrent_network import GenotypeCell, LanguageModel

_IMPORT = "\nfrom .recurrent_genotype import RecurrentGenotype\n"
_TYPING = "from typing import NamedTuple\n"

_GENOTYPE = '''
class RecurrentGenotype(NamedTuple):
    """(activation, state) of node 1, 2, ..., and the states whose mean is the cell's output."""

    recurrent: tuple[tuple[str, int], ...]
    concat: tuple[int, ...]

'''

_ENDING = '''

WEIGHTS = Path(__file__).with_suffix(".pt")


def build() -> LanguageModel:
    """Return the network with fresh weights; it knows the words 0 to {last}."""
    genotype = RecurrentGenotype({recurrent!r}, {concat!r})
    dropouts = {dropouts!r}
    sizes = {sizes!r}
    return build_language_model(genotype, dropouts=dropouts, normalise={normalise}, **sizes)


def load(path: str | Path | None = None) -> LanguageModel:
    """Return the network with the exported weights."""
    network = build()
    network.load_state_dict(torch.load(WEIGHTS if path is None else path, map_location="cpu", weights_only=True))
    return network
'''


def recurrent_source(network: LanguageModel, title: str) -> str:
    """Return Python source with ``build()`` and ``load(path=None)`` of a language model: its own code, and its sizes.

    Args:
        network: of a `GenotypeCell`.
        title: what it is.
    """
    code = inspect.getsource(recurrent_network).replace(_IMPORT, _GENOTYPE)
    code = code.replace(_TYPING, f"from pathlib import Path\n{_TYPING}")
    cell = cast(GenotypeCell, network.cell)
    genotype = cell.genotype
    ending = _ENDING.format(
        last=network.num_labels - 1,
        recurrent=tuple(genotype.recurrent),
        concat=tuple(genotype.concat),
        dropouts=network.dropouts,
        sizes={"size": network.size, "vocabulary": network.num_labels},
        normalise=isinstance(cell.norm, nn.BatchNorm1d),
    )
    return f"# {title}\n{code}{ending}"

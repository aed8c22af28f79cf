"""What a search has found, as text that fits into a report to NNI's manager."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.errors import FileFormatError
from balenas_plugin.selection import RankedArchitecture

KEY = "found"
"""Name of the text among a report's numbers; NNI's page shows numbers only."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search that ran in another process.

    Args:
        posterior: after the last epoch.
        records: the best architectures, the best first, as in architectures.json.
        ranking: all that a `selection` has ranked; None without one.
        checkpoint: path of the search's checkpoint, on the machine where the search ran.
    """

    posterior: Posterior
    records: Sequence[Mapping[str, Any]]
    ranking: Sequence[RankedArchitecture] | None = None
    checkpoint: str | None = None

    def to_text(self) -> str:
        """Return everything as one short line, exactly: compressed JSON in base64 (without //, NNI's comment)."""
        document = {
            "posterior": self.posterior.to_document(),
            "records": list(self.records),
            "ranking": None if self.ranking is None else [ranked.to_dict() for ranked in self.ranking],
            "checkpoint": self.checkpoint,
        }
        return base64.urlsafe_b64encode(zlib.compress(json.dumps(document).encode("utf-8"), level=9)).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> Found:
        """Read what `to_text` wrote.

        Raises:
            FileFormatError: the text is damaged.
        """
        try:
            document = json.loads(zlib.decompress(base64.urlsafe_b64decode(text)))
            ranking = document["ranking"]
            return cls(
                posterior=Posterior.from_document(document["posterior"]),
                records=document["records"],
                ranking=None if ranking is None else [RankedArchitecture.from_dict(entry) for entry in ranking],
                checkpoint=document["checkpoint"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, zlib.error) as error:
            raise FileFormatError(f"the report of the search is damaged: {error}") from error

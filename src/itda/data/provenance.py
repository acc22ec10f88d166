"""What activations were made from: model, tokenizer, corpus, site and how they were captured."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from itda.models.fingerprints import ModelRecord


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where activations come from, as a whole; each row has its own `Source`."""

    model: ModelRecord
    site: str
    corpus: str
    """Fingerprint of the corpus."""
    corpus_name: str
    capture: Mapping[str, Any]
    """The options of the capture, and what they counted."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for files."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**fields, "model": ModelRecord.from_dict(fields["model"])})

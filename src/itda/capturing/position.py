"""How far a capture has come at one site: with it, another process goes on as if nothing had happened."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Position:
    """What a capture knows of one site after some forward passes."""

    passes: int = 0
    """Forward passes of the capture whose rows have been taken."""
    owed: int = 0
    """Rows that sinks have taken away, to be made up for by later windows."""
    sink_norm: float | None = None
    """The norm above which a row is a sink; None until the first windows have said it."""
    counts: Counter[str] = field(default_factory=Counter)
    """Tokens seen, by what became of them."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for files."""
        return {**vars(self), "counts": dict(sorted(self.counts.items()))}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**fields, "counts": Counter(fields["counts"])})

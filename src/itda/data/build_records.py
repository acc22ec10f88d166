"""How a dictionary was built, and with what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """How a dictionary was built."""

    method: str
    options: Mapping[str, Any]
    rows: int
    """Rows that were read."""
    threshold: float | None
    """The smallest novelty of any atom when it was added: unexplained share, or 1 - cos in paper mode. None for methods
    that do not take one row after the other."""
    unexplained: float | None
    """Mean unexplained share of a sample of those rows, with the finished dictionary; of an extended one, of the rows
    that its last atoms were chosen from. None where parts were merged without any rows to measure on."""
    notes: tuple[str, ...] = ()
    """What a user should know: what was skipped, or could not be done as asked."""
    versions: Mapping[str, str] = field(default_factory=dict)


def library_versions() -> dict[str, str]:
    """The versions that decide the numbers in a dictionary."""
    return {name: version(name) for name in ("itda", "torch", "transformers", "tokenizers", "numba", "numpy")}

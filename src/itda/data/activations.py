"""Activations with the source of every row."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from itda.data import files
from itda.data.provenance import Provenance
from itda.data.sources import Sources
from itda.errors import FormatError, ShapeError


class Block(NamedTuple):
    """Some rows of one site, in their order."""

    rows: Tensor
    """float32 (n, D), on the CPU."""
    sources: Sources


class Rows:
    """What rows in memory have in common, whether they have sources or not."""

    rows: Tensor
    """float32 (N, D)."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """D, the width of the rows."""
        return self.rows.shape[1]

    @property
    def fingerprint(self) -> str:
        """Hash of the rows."""
        hasher = hashlib.blake2b(str(tuple(self.rows.shape)).encode(), digest_size=16)
        for part in torch.split(self.rows, 65_536):
            hasher.update(part.contiguous().cpu().numpy().tobytes())
        return hasher.hexdigest()


@dataclass(frozen=True, eq=False)
class Activations(Rows):
    """N activations of one site and where each came from."""

    rows: Tensor
    """float32 (N, D)."""
    sources: Sources
    provenance: Provenance
    documents: tuple[str, ...]
    """Ids of all documents that were read for it, in order."""

    def __repr__(self) -> str:
        count, width = self.rows.shape
        return f"Activations({count:,} rows of width {width} at {self.site} of {self.provenance.model.id})"

    @property
    def site(self) -> str:
        """The place in the model."""
        return self.provenance.site

    def blocks(self, size: int, *, first: int = 0) -> Iterator[Block]:
        """The rows from `first` on in pieces of at most `size`."""
        for start in range(first, len(self), size):
            places = torch.arange(start, min(start + size, len(self)))
            yield Block(self.rows[start : start + size], self.sources.select(places))

    def select(self, places: Tensor) -> Self:
        """Some of the rows, by index, with their sources."""
        return replace(self, rows=self.rows[places], sources=self.sources.select(places))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write rows and sources to a folder.

        Raises: OutputError if the folder exists or cannot be written.
        """
        facts: dict[str, Any] = {"provenance": self.provenance.to_dict(), "documents": list(self.documents)}
        content = {"rows": {"rows": self.rows}, "sources": self.sources.to_tensors()}
        return files.write_folder(folder, "activations", facts, content, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The inverse of `save`.

        Raises: FormatError if anything in the folder is missing or damaged.
        """
        facts, tensors = files.read_folder(folder, "activations")
        with files.parsing(Path(folder)):
            rows, sources = _matrix(tensors["rows"]["rows"]), Sources.from_tensors(tensors["sources"])
            provenance, documents = Provenance.from_dict(facts["provenance"]), tuple(facts["documents"])
        if len(rows) != len(sources):
            raise FormatError(f"{folder} is damaged: {len(rows)} rows but {len(sources)} sources.")
        return cls(rows, sources, provenance, documents)


class BareRows(Rows):
    """Rows of any matrix: they come in blocks as activations do, with row numbers or a table for sources."""

    provenance = None
    documents: tuple[str, ...] = ()

    def __init__(self, rows: Tensor, sources: Sources | None = None) -> None:
        """Rows (N, D), and where they come from, if anybody knows.

        Raises: ShapeError if the sources are not as many.
        """
        if sources is not None and len(sources) != len(rows):
            raise ShapeError(f"Every row needs its source. Got {len(rows)} rows and {len(sources)} sources.")
        self.rows, self._sources = rows, sources

    @property
    def fingerprint(self) -> str:
        """Hash of the rows, and of the names they were given."""
        if self._sources is None:
            return super().fingerprint
        named = hashlib.blake2b(super().fingerprint.encode(), digest_size=16)
        for name, tensor in sorted(self._sources.to_tensors().items()):
            named.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return named.hexdigest()

    def blocks(self, size: int, *, first: int = 0) -> Iterator[Block]:
        """The rows from `first` on in pieces of at most `size`."""
        for start in range(first, len(self), size):
            part = self.rows[start : start + size]
            places = torch.arange(start, start + len(part))
            known = None if self._sources is None else self._sources.select(places)
            yield Block(part, Sources.of_rows(len(part), first=start) if known is None else known)


def _matrix(rows: Tensor) -> Tensor:
    if rows.ndim != 2 or rows.dtype != torch.float32:
        raise TypeError(f"rows of shape {tuple(rows.shape)} and {rows.dtype}")
    return rows

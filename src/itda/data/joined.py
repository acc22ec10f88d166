"""The parts of one capture, each an entry of a store, read as if they were one."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Self

from itda.data import files, provenance
from itda.data.activations import Block
from itda.data.entries import RowsOnDisk, StoredActivations
from itda.errors import MismatchError


class JoinedActivations(RowsOnDisk):
    """Activations of one site of all parts of a corpus, one part after the other."""

    def __init__(self, parts: Sequence[StoredActivations]) -> None:
        """Join entries of a store.

        Raises: MismatchError if they differ in model, site, width or how they were captured; OptionError if one of
            them is not complete.
        """
        self.parts = tuple(part.whole() for part in parts)
        first = self.parts[0]
        for part in self.parts[1:]:
            first.provenance.check_alike(part.provenance, first.name, part.name)
            if (part.width, part.dtype) != (first.width, first.dtype):
                raise MismatchError(
                    f"{part.name} has rows of width {part.width} as {part.dtype}, {first.name} of width {first.width} "
                    f"as {first.dtype}. Capture both alike."
                )
        self.width = first.width
        with files.parsing(first.folder):
            self.provenance = provenance.joined([part.provenance for part in self.parts])
        self.documents = tuple(document for part in self.parts for document in part.documents)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __repr__(self) -> str:
        return (
            f"JoinedActivations({len(self):,} rows in {len(self.parts)} parts, width {self.width}, "
            f"{self.parts[0].dtype}, at {self.site} of {self.provenance.model.id})"
        )

    @property
    def name(self) -> str:
        """The names of its parts in the store."""
        return ", ".join(part.name for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """Hash over all rows and sources, by those of the parts."""
        return hashlib.blake2b("".join(part.fingerprint for part in self.parts).encode(), digest_size=16).hexdigest()

    def whole(self) -> Self:
        """See `RowsOnDisk.whole`."""
        return self

    def blocks(self, size: int, *, first: int = 0) -> Iterator[Block]:
        """See `RowsOnDisk.blocks`; sources are numbered through all parts."""
        before = 0
        for part in self.parts:
            if first < len(part):
                for rows, sources in part.blocks(size, first=first):
                    yield Block(rows, replace(sources, row=sources.row + before))
            first = max(0, first - len(part))
            before += len(part)

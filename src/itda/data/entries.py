"""One site of one capture on disk, as whoever reads it sees it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from itda.data import files, shards
from itda.data.activations import Block
from itda.data.lots import evenly
from itda.data.provenance import Provenance
from itda.data.shards import Shard
from itda.data.sources import Sources
from itda.errors import FormatError, OptionError

KIND = "store_entry"
_MANY_ROWS = 65_536


class RowsOnDisk(ABC):
    """What rows on disk have in common, whether of one capture or of the parts of one."""

    provenance: Provenance
    documents: tuple[str, ...]
    """Ids of all documents that were read for it, in order."""
    width: int
    """D, the width of the rows."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash over all rows and sources, by those of the shards."""

    @abstractmethod
    def blocks(self, size: int, *, first: int = 0) -> Iterator[Block]:
        """The rows from `first` on in pieces of at most `size`; each shard is checked before its first use.

        Raises: FormatError that names a shard that is missing or damaged.
        """

    @abstractmethod
    def whole(self) -> Self:
        """Itself, if all its rows are there.

        Raises: OptionError for a capture that was not ended.
        """

    @property
    def site(self) -> str:
        """The place in the model."""
        return self.provenance.site

    def sample(self, size: int) -> Tensor:
        """At most so many of the rows, evenly over all, float32 (n, D).

        Raises: FormatError as `blocks`.
        """
        wanted, seen, found = evenly(len(self), size), 0, [torch.empty(0, self.width)]
        for block in self.blocks(_MANY_ROWS):
            here = wanted[(wanted >= seen) & (wanted < seen + len(block.rows))] - seen
            found.append(block.rows[here])
            seen += len(block.rows)
        return torch.cat(found)

    @cached_property
    def _all(self) -> Block:
        parts = list(self.blocks(_MANY_ROWS))
        return Block(
            torch.cat([torch.empty(0, self.width), *(part.rows for part in parts)]),
            Sources.concatenate(part.sources for part in parts),
        )

    @property
    def rows(self) -> Tensor:
        """All rows, float32 (N, D), in memory; `blocks` does without."""
        return self._all.rows

    @property
    def sources(self) -> Sources:
        """Where each row comes from; loads all rows too."""
        return self._all.sources


class StoredActivations(RowsOnDisk):
    """Activations of one site on disk; rows are read when they are asked for, and checked when they are."""

    def __init__(self, folder: str | Path) -> None:
        """Open an entry of a store.

        Raises: FormatError if it is missing, damaged, or no entry of a store.
        """
        self.folder = Path(folder)
        facts = files.read_manifest(self.folder, KIND)
        with files.parsing(self.folder):
            self.provenance = Provenance.from_dict(facts["provenance"])
            self.documents: tuple[str, ...] = tuple(facts["documents"])
            self.width, self.wanted = int(facts["width"]), int(facts["wanted"])
            self.dtype = str(facts["dtype"])
            self.complete: bool = facts["index"] is not None
            self.shards: list[Shard] = shards.read_index(self.folder, sha256=facts["index"])
        self._checked: set[str] = set()

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def __repr__(self) -> str:
        state = "" if self.complete else f" of {self.wanted:,}, not complete"
        return (
            f"StoredActivations({len(self):,} rows{state}, width {self.width}, {self.dtype}, at {self.site} of "
            f"{self.provenance.model.id})"
        )

    @property
    def fingerprint(self) -> str:
        """Hash over all rows and sources, by those of the shards."""
        return hashlib.blake2b("".join(shard.sha256 for shard in self.shards).encode(), digest_size=16).hexdigest()

    def whole(self) -> Self:
        """See `RowsOnDisk.whole`."""
        if not self.complete:
            raise OptionError(f"The capture in {self.folder} is not complete. Run it again, and it goes on.")
        return self

    @property
    def name(self) -> str:
        """Its name in the store."""
        return self.folder.name

    @property
    def size(self) -> int:
        """Bytes of its shards on disk."""
        return sum(shard.size for shard in self.shards)

    def facts(self) -> dict[str, Any]:
        """What it is, as plain values."""
        return {
            "entry": self.name,
            "site": self.site,
            "model": self.provenance.model.id,
            "corpus": self.provenance.corpus_name,
            "rows": len(self),
            "wanted": self.wanted,
            "width": self.width,
            "dtype": self.dtype,
            "bytes": self.size,
            "shards": len(self.shards),
            "complete": self.complete,
            "problem": None,
        }

    def blocks(self, size: int, *, first: int = 0) -> Iterator[Block]:
        """See `RowsOnDisk.blocks`."""
        for shard in self.shards:
            if first < shard.rows:
                if shard.file not in self._checked:
                    shards.check(self.folder, shard)
                    self._checked.add(shard.file)
                for block in shards.read(self.folder / shard.file, size, first=first):
                    self._check_width(shard, block)
                    yield block
            first = max(0, first - shard.rows)

    def _check_width(self, shard: Shard, block: Block) -> None:
        width = block.rows.shape[1]
        if width != self.width:
            raise FormatError(
                f"{self.folder / shard.file} has rows of width {width}, the capture {self.width}. "
                f"Remove the entry (itda store prune {self.folder.parent} --entry {self.name}), and capture it again."
            )

    def problems(self) -> list[str]:
        """What is wrong with its shards, each checked through."""
        found = []
        for shard in self.shards:
            try:
                shards.check(self.folder, shard)
                count = 0
                for part in shards.read(self.folder / shard.file, _MANY_ROWS):
                    count += len(part.rows)
                    self._check_width(shard, part)
                if count != shard.rows:
                    raise FormatError(f"{self.folder / shard.file} has {count:,} rows, not {shard.rows:,}.")
            except FormatError as error:
                found.append(str(error))
        return found


class DamagedEntry:
    """An entry whose manifest or index cannot be read."""

    shards: tuple[Shard, ...] = ()
    complete = False

    def __init__(self, folder: Path, problem: str) -> None:
        self.folder, self._problem = folder, problem

    @property
    def name(self) -> str:
        """Its name in the store."""
        return self.folder.name

    def facts(self) -> dict[str, Any]:
        """What is wrong with it."""
        return {"entry": self.name, "problem": self._problem}

    def problems(self) -> list[str]:
        """What is wrong with it."""
        return [self._problem]

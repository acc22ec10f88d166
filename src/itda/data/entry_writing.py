"""One site of one capture on disk, as the capture writes it."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from itda.data import files, locks, shards
from itda.data.activations import Block
from itda.data.drafts import refused
from itda.data.entries import KIND, StoredActivations
from itda.data.provenance import Provenance
from itda.data.shards import DTYPES, INDEX, Shard
from itda.data.sources import Sources
from itda.errors import FormatError, MismatchError, OutputError

After = Mapping[str, Any]
TAIL = "tail"
_TAIL_KIND = "store_tail"
_SHARD_BYTES = 64 * 2**20
_SHARD_ROWS, _SHARDS = 4096, 512  # a shard has at least so many rows, an entry roughly so many shards


class EntryWriter:
    """Appends the blocks of one entry, and knows behind which of them it was stopped the last time.

    Use it as a context: it holds the entry against other processes. Whatever ends the context, blocks that
    were taken are not lost.
    """

    def __init__(self, folder: Path, asked: Provenance, *, documents: Sequence[str], rows: int, dtype: str) -> None:
        self.folder, self._asked, self._documents, self._rows, self._dtype = folder, asked, documents, rows, dtype
        self.complete = False
        """Whether all rows are there."""
        self.shards: list[Shard] = []
        self._width: int | None = None
        self._pending: list[tuple[Block, After]] = []
        self._open = ExitStack()

    def __enter__(self) -> "EntryWriter":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(self.folder, error) from error
        self._open.enter_context(locks.held(self.folder))
        try:
            if (self.folder / files.MANIFEST).exists():
                self._go_on()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._open:
            if kind is not None:
                with suppress(OutputError):  # what went wrong may be the disk itself
                    self.checkpoint()

    def _go_on(self) -> None:
        entry = StoredActivations(self.folder)
        self._width, self.shards, self.complete = entry.width, entry.shards, entry.complete
        if self.complete:
            return
        for draft in self.folder.glob(".*"):
            if draft.name != locks.LOCK:
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
        shards.trim_index(self.folder, self.shards)
        shards.remove_others(self.folder, self.shards)
        with suppress(FormatError):  # without a tail, the last shard is as good a place to go on from
            facts, tensors = files.read_folder(self.folder / TAIL, _TAIL_KIND)
            if facts["shards"] == len(self.shards):
                block = Block(tensors["rows"]["rows"], Sources.from_tensors(tensors["sources"]))
                self._pending = [(block, facts["after"])]

    @property
    def after(self) -> After | None:
        """What was given with the last block; None before the first."""
        if self._pending:
            return self._pending[-1][1]
        return self.shards[-1].after if self.shards else None

    @property
    def missing(self) -> list[int]:
        """Shards whose file is gone or cut, by their place."""
        return [place for place, shard in enumerate(self.shards) if not shards.is_there(self.folder, shard)]

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards) + sum(len(block.rows) for block, _ in self._pending)

    def append(self, block: Block, after: After) -> None:
        """Take a block; `after` is what whoever goes on behind it needs to know.

        Raises: OutputError if the disk is full; what was written before is kept.
        """
        if self._width is None:
            self._width = block.rows.shape[1]
            self._write_manifest(self._asked, index=None)
        self._pending.append((block, after))
        if sum(len(part.rows) for part, _ in self._pending) >= self._shard_rows:
            self._flush()

    def checkpoint(self) -> None:
        """Make what was taken so far safe, without ending the shard.

        Raises: OutputError.
        """
        if not self._pending:
            return
        pending = list(self._pending)
        block = Block(
            torch.cat([part.rows for part, _ in pending]), Sources.concatenate(part.sources for part, _ in pending)
        )
        files.write_folder(
            self.folder / TAIL,
            _TAIL_KIND,
            {"shards": len(self.shards), "after": pending[-1][1]},
            {"rows": {"rows": block.rows}, "sources": block.sources.to_tensors()},
            overwrite=True,
        )

    def repair(self, place: int, blocks: Sequence[Block]) -> None:
        """Write a missing shard again from its blocks.

        Raises: MismatchError if they are not what it was; OutputError.
        """
        shard = self.shards[place]
        content = shards.to_bytes(blocks, DTYPES[self._dtype])
        if hashlib.sha256(content).hexdigest() != shard.sha256:
            raise MismatchError(
                f"{self.folder / shard.file} was made anew, and is not what it was: this machine or this version of a "
                f"library computes other last bits. Remove the entry and capture it whole "
                f"(itda store prune {self.folder.parent} --entry {self.folder.name})."
            )
        files.write_bytes(self.folder / shard.file, content)

    def finish(self, found: Provenance) -> StoredActivations:
        """Write what is left and mark the entry complete.

        Args:
            found: the provenance with all that was found out on the way.
        Raises: OutputError.
        """
        if not self.complete:
            if self._pending:
                self._flush()
            index = hashlib.sha256(files.read_bytes(self.folder / INDEX)).hexdigest()
            self._write_manifest(found, index=index)
            shutil.rmtree(self.folder / TAIL, ignore_errors=True)
            self.complete = True
        return StoredActivations(self.folder)

    @property
    def _shard_rows(self) -> int:
        """The same for the same capture, so that a stop leaves no trace in how rows are cut."""
        assert self._width is not None
        most = max(1, _SHARD_BYTES // (self._width * DTYPES[self._dtype].itemsize))
        return min(most, max(_SHARD_ROWS, self._rows // _SHARDS))

    def _flush(self) -> None:
        blocks = [block for block, _ in self._pending]
        content = shards.to_bytes(blocks, DTYPES[self._dtype])
        rows, after = sum(len(block.rows) for block in blocks), self._pending[-1][1]
        shard = shards.append(self.folder, len(self.shards), content, rows, after)
        # Both at once: stopped between them, the rows of the shard would be kept a second time as what comes behind it
        self.shards, self._pending = [*self.shards, shard], []

    def _write_manifest(self, provenance: Provenance, *, index: str | None) -> None:
        facts = {
            "provenance": provenance.to_dict(),
            "documents": list(self._documents),
            "width": self._width,
            "dtype": self._dtype,
            "wanted": self._rows,
            "index": index,
        }
        files.write_manifest(self.folder, KIND, facts)

"""Activations on disk: captured once, read in any order, by as many as want to.

store/
  itda.json                    what it is
  resid_post.2-3f9a1c0d42e7/   one site of one capture; the digits are its fingerprint
    itda.json                  where it comes from; written at the start and again at the end
    index.jsonl                one line for each shard
    000000.safetensors         rows and their sources
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from itda.data import files, locks, shards
from itda.data.drafts import is_draft, refused
from itda.data.entries import DamagedEntry, StoredActivations
from itda.data.entry_writing import TAIL, EntryWriter
from itda.data.joined import JoinedActivations
from itda.data.provenance import Provenance, are_whole
from itda.data.shards import DTYPES, Shard
from itda.errors import FormatError, MismatchError, OptionError
from itda.models.hook_names import to_site
from itda.options import one_of

_KIND = "store"
_HIDDEN, _SURVEY = ".hidden-", ".survey-"
_DIGITS = 12  # of the fingerprint, in the name of an entry
_ENTRY = re.compile(rf"[A-Za-z0-9_].*-[0-9a-f]{{{_DIGITS}}}")


class Store:
    """A folder of captured activations, one entry for each site of each capture."""

    def __init__(self, folder: str | Path, *, create: bool = False) -> None:
        """Open a store.

        Args:
            folder: where it is.
            create: make it if there is nothing there.
        Raises: FormatError if there is none; OutputError if it cannot be made.
        """
        self.folder = Path(folder)
        if create and _is_free(self.folder):
            files.write_manifest(self.folder, _KIND, {})
        files.read_manifest(self.folder, _KIND)

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r}, {len(self.names())} entries)"

    def names(self) -> list[str]:
        """The entries there are, whatever their state. Other folders are none of ours."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir() and _ENTRY.fullmatch(path.name))

    def listed(self, names: Sequence[str] | None = None) -> list[StoredActivations | DamagedEntry]:
        """All entries, those that cannot be read too; or those whose names begin with one of `names`.

        Raises: OptionError for a name that no entry begins with.
        """
        chosen = [name for name in self.names() if names is None or name.startswith(tuple(names))]
        for name in names or ():
            if not any(item.startswith(name) for item in chosen):
                raise OptionError(f"{self.folder} has no entry {name!r}; it has {', '.join(self.names()) or 'none'}.")
        found: list[StoredActivations | DamagedEntry] = []
        for name in chosen:
            try:
                found.append(StoredActivations(self.folder / name))
            except FormatError as error:
                found.append(DamagedEntry(self.folder / name, str(error)))
        return found

    def entries(self) -> list[StoredActivations]:
        """All entries that can be read, complete or not."""
        return [entry for entry in self.listed() if isinstance(entry, StoredActivations)]

    def open(self, site: str | None = None, *, entry: str | None = None) -> StoredActivations | JoinedActivations:
        """The one complete capture that fits; one that was made in parts is read as if it were one entry.

        Args:
            site: of this place; needed if the store holds several.
            entry: its name, or the beginning of it.
        Raises: OptionError that lists the entries if none or several fit; FormatError if it is damaged.
        """
        site = to_site(site) if site else site
        found = [
            item
            for item in self.entries()
            if (site is None or item.site == site) and (entry is None or item.name.startswith(entry))
        ]
        if entry is not None and len(found) == 1:
            return found[0].whole()
        captures = _captures(found)
        complete = [parts for parts in captures if _is_whole(parts)]
        if len(complete) == 1:
            parts = complete[0]
            return JoinedActivations(parts) if len(parts) > 1 else parts[0]
        asked = " and ".join(f"{name} {value!r}" for name, value in (("site", site), ("entry", entry)) if value)
        shown = [item for parts in complete or captures for item in parts] or self.entries()
        listed = "".join(f"\n  {item.name}: {item!r}" for item in shown)
        if not complete and found:
            raise OptionError(f"The capture in {self.folder} is not complete. Run it again, and it goes on.{listed}")
        raise OptionError(
            f"{self.folder} has {len(complete)} captures{' with ' + asked if asked else ''}. Name one by its site or "
            f"entry; there are:{listed or ' none'}"
        )

    def writer(self, asked: Provenance, *, documents: Sequence[str], rows: int, dtype: str) -> "EntryWriter":
        """Begin an entry, or go on with one that was begun.

        Args:
            asked: where the rows come from, before anything was found out.
            documents: ids of the documents that give rows.
            rows: how many there will be, or a few less.
            dtype: `float16`, `bfloat16` or `float32`.
        Raises: OutputError if another process writes it; FormatError if what is there is damaged;
            MismatchError if the store holds the same capture from other weights of this model.
        """
        folder = self._folder_of(asked, dtype)
        for item in self.entries() if not folder.exists() else []:
            if _changed(item.provenance, asked):
                raise MismatchError(
                    f"{item.folder} was captured from {asked.model.id!r} when it had other weights. Remove it "
                    f"(itda store prune {self.folder} --entry {item.name}), or use another store."
                )
        return EntryWriter(folder, asked, documents=documents, rows=rows, dtype=dtype)

    def finished(self, asked: Provenance, dtype: str) -> StoredActivations | None:
        """The entry of a capture that is complete and has all of its shards, or None.

        Args: as `writer`.
        Raises: FormatError if what is there is damaged.
        """
        folder = self._folder_of(asked, dtype)
        if not (folder / files.MANIFEST).exists():
            return None
        entry = StoredActivations(folder)
        return entry if entry.complete and all(shards.is_there(folder, shard) for shard in entry.shards) else None

    def _folder_of(self, asked: Provenance, dtype: str) -> Path:
        one_of("dtype", dtype, tuple(DTYPES))
        key = fingerprint(asked, dtype)
        return self.folder / f"{re.sub(r'[^A-Za-z0-9_.]', '_', asked.site)[:80]}-{key[:_DIGITS]}"

    def scratch(self, asked: Sequence[Provenance]) -> Path:
        """A folder for what a capture of several sites needs between its passes; not made yet."""
        key = hashlib.blake2b("".join(fingerprint(one, "") for one in asked).encode(), digest_size=6).hexdigest()
        return self.folder / f"{_HIDDEN}{key}"

    def survey(self, facts: Sequence[Any]) -> Path:
        """A folder for what was found out about the parts of one capture before it was begun; not made yet."""
        plain = json.dumps(files.to_plain({"facts": facts}), sort_keys=True)
        return self.folder / f"{_SURVEY}{hashlib.blake2b(plain.encode(), digest_size=6).hexdigest()}"

    def prune(
        self, names: Sequence[str] | None = None, *, damaged: bool = False, incomplete: bool = False,
        dry_run: bool = False,
    ) -> list[tuple[Path, int]]:  # fmt: skip
        """Remove captures, or what is damaged or left over.

        Args:
            names: look only at entries whose names begin so; with nothing else asked, remove them whole.
            damaged: remove damaged shards, and entries that cannot be read.
            incomplete: remove entries that were never ended.
            dry_run: remove nothing.
        Returns: what was removed, or would be, with its bytes.
        Raises: OptionError for an unknown name; OutputError for an entry that another process writes.
        """
        removed: list[tuple[Path, int]] = []

        def remove(paths: Iterable[Path]) -> None:
            for path in paths:
                removed.append((path, _size(path)))
                try:
                    if not dry_run:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                except OSError as error:
                    raise refused(path, error) from error

        for entry in self.listed(names):
            with locks.held(entry.folder):
                whole = bool(names) and not damaged and not incomplete
                unreadable = damaged and isinstance(entry, DamagedEntry)
                never_ended = incomplete and isinstance(entry, StoredActivations) and not entry.complete
                all_of_it = whole or unreadable or never_ended
                if not all_of_it:
                    remove(_left_over(entry))
                    if damaged:
                        remove(entry.folder / shard.file for shard in entry.shards if _is_damaged(entry.folder, shard))
            if all_of_it:  # the lock is in it, and some systems remove no file that is open
                remove([entry.folder])
        gone = {path for path, _ in removed}
        if names is None and all(entry.complete for entry in self.listed() if entry.folder not in gone):
            remove(self.folder.glob(f"{_HIDDEN}*"))  # no capture is left that could go on from them
        return removed


def _is_free(folder: Path) -> bool:
    """Whether a store may begin there: there is nothing but, at most, what one left that was stopped while it began."""
    return not folder.exists() or (folder.is_dir() and all(is_draft(path) for path in folder.iterdir()))


def fingerprint(asked: Provenance, dtype: str) -> str:
    """What makes two captures the same: model, tokenizer, corpus, site, options and data types."""
    model = asked.model
    facts = [
        model.config, model.files or model.parameters, model.tokenizer, model.settings.get("dtype"),
        asked.corpus, asked.site, dict(asked.capture), asked.part and asdict(asked.part), dtype,
    ]  # fmt: skip
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _captures(entries: Sequence[StoredActivations]) -> list[list[StoredActivations]]:
    """The entries of each capture, those of its parts in their order."""
    captures: dict[tuple[str, str], list[StoredActivations]] = {}
    for item in entries:
        same = item.provenance.kind if item.provenance.part else item.name
        captures.setdefault((same, item.dtype), []).append(item)
    return [
        sorted(parts, key=lambda item: item.provenance.part.number if item.provenance.part else 0)
        for parts in captures.values()
    ]


def _is_whole(parts: Sequence[StoredActivations]) -> bool:
    complete = all(part.complete for part in parts)
    return complete and (parts[0].provenance.part is None or are_whole([part.provenance for part in parts]))


def _changed(there: Provenance, asked: Provenance) -> bool:
    """Whether the weights in the files of that model have changed since."""
    return (
        there.model.id == asked.model.id
        and bool(there.model.files and asked.model.files)
        and not there.model.is_same_model(asked.model)
        and (there.corpus, there.site) == (asked.corpus, asked.site)
    )


def _left_over(entry: StoredActivations | DamagedEntry) -> list[Path]:
    """What a stopped process has left in an entry and no later one will use."""
    if isinstance(entry, DamagedEntry):
        return []
    known = {shard.file for shard in entry.shards}
    lost = [path for path in entry.folder.glob("*.safetensors") if path.name not in known]
    drafts = [path for path in entry.folder.glob(".*") if path.name != locks.LOCK]
    tails = [entry.folder / TAIL] if entry.complete and (entry.folder / TAIL).is_dir() else []
    return [*lost, *drafts, *tails]


def _is_damaged(folder: Path, shard: Shard) -> bool:
    try:
        shards.check(folder, shard)
    except FormatError:
        return (folder / shard.file).exists()
    return False


def _size(path: Path) -> int:
    return sum(item.stat().st_size for item in (path.rglob("*") if path.is_dir() else [path]) if item.is_file())

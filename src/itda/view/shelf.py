"""The dictionaries and results that pages show: what is in the folders that were named."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from itda.data import files
from itda.errors import FormatError, ItdaError, OptionError
from itda.view.notes import Notes
from itda.view.records import Records, checksums_of, folder_of

_FORMAT = "itda.compare."
_VECTOR = "itda.steering_vector"
_LARGEST_RESULT = 64 * 2**20  # bytes of a JSON file that is looked into


class StaleError(FormatError):
    """The pages of a dictionary are missing, or were made from another one."""


@dataclass(frozen=True, eq=False)
class Book:
    """One dictionary, what its pages are made of, and the notes on it."""

    name: str
    """In addresses."""
    folder: Path
    records: Records

    @cached_property
    def notes(self) -> Notes:
        """What people wrote about its atoms."""
        return Notes(self.folder, str(self.records.facts["fingerprint"]))


@dataclass(frozen=True, eq=False)
class Shelf:
    """Several dictionaries, and the results of comparisons beside them."""

    books: Mapping[str, Book]
    results: Mapping[str, dict[str, Any]]
    """By file name."""
    vectors: Mapping[str, Path] = field(default_factory=dict)
    """Files of steering vectors in the folders, by name."""

    @classmethod
    def open(cls, folders: Sequence[str | Path]) -> "Shelf":
        """What folders hold: each is a dictionary, or holds some, results of `itda compare`, and steering vectors.

        Files of results and vectors may be named as well.

        Raises: FormatError if there is nothing to show; StaleError where pages have to be prepared first.
        """
        books: dict[str, Book] = {}
        for folder in dictionaries_in(folders):
            name = _unique(folder.name, books)
            books[name] = Book(name, folder, open_records(folder))
        return cls(books, _results_in(folders), _vectors_in(folders))

    def book(self, name: str) -> Book:
        """The dictionary of that name.

        Raises: OptionError that names those there are.
        """
        if name not in self.books:
            raise OptionError(f"There is no dictionary {name!r} here. There are: {', '.join(self.books) or 'none'}.")
        return self.books[name]

    def vector(self, name: str) -> Path:
        """The file of the steering vector of that name.

        Raises: OptionError that names those there are.
        """
        if name not in self.vectors:
            raise OptionError(f"There is no vector {name!r} here. There are: {', '.join(self.vectors) or 'none'}.")
        return self.vectors[name]


def dictionaries_in(folders: Sequence[str | Path]) -> list[Path]:
    """The folders of dictionaries that were named, or are in one that was.

    Raises: FormatError for a folder that is none and holds none, nor results, and for a file of something else.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        if folder.is_file():
            if not _results_in([folder]) and not _vectors_in([folder]):
                raise FormatError(f"{folder} holds neither results of itda compare nor a steering vector of itda.")
            continue
        if (folder / files.MANIFEST).exists() or not folder.is_dir():
            files.read_manifest(folder, "dictionary")
            own = [folder]
        else:
            own = [path.parent for path in sorted(folder.glob(f"*/{files.MANIFEST}")) if _holds_dictionary(path)]
            if not own and not _results_in([folder]):
                raise FormatError(
                    f"{folder} is no dictionary, and holds neither dictionaries nor results of itda compare. "
                    "Check the path."
                )
        found += [path for path in own if path not in found]
    return found


def models_of(folders: Sequence[Path]) -> list[str]:
    """The models that dictionaries were built on, by name, each once.

    Raises: FormatError.
    """
    owners = [files.read_manifest(folder, "dictionary")["provenance"] for folder in folders]
    names: dict[str, str] = {}
    for owner in filter(None, owners):
        names.setdefault(str(owner["model"].get("parameters") or owner["model"].get("files")), owner["model"]["id"])
    return list(names.values())


def open_records(folder: Path) -> Records:
    """What the pages of a dictionary's folder are made of.

    Raises: StaleError if that is to be prepared first; FormatError if it is damaged.
    """
    prepared = folder_of(folder)
    if not prepared.exists():
        raise StaleError(f"The pages of {folder} are not prepared yet. Run: itda view {folder} --prepare")
    records = Records.load(prepared)
    if records.facts.get("dictionary") != checksums_of(folder):
        raise StaleError(
            f"The pages in {prepared} are of another dictionary than {folder} now is. Run: itda view {folder} --prepare"
        )
    return records


def is_ready(folder: Path) -> bool:
    """Whether the pages of a dictionary's folder are prepared, from what it now is.

    Raises: FormatError if they are damaged.
    """
    try:
        open_records(folder)
    except StaleError:
        return False
    return True


def _holds_dictionary(manifest: Path) -> bool:
    try:
        return bool(json.loads(manifest.read_bytes()).get("format") == "itda.dictionary")
    except (OSError, ValueError, AttributeError):
        return False


def _results_in(folders: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in _files_in(map(Path, folders), ".json"):
        try:
            if path.name == files.MANIFEST or path.stat().st_size > _LARGEST_RESULT:
                continue
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError, ItdaError):
            continue
        if isinstance(content, dict) and str(content.get("format", "")).startswith(_FORMAT):
            found[_unique(path.name, found)] = content
    return found


def _vectors_in(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Steering vectors in folders, or beside a dictionary that was named."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Path] = {}
    places = (path.parent if (path / files.MANIFEST).exists() else path for path in map(Path, folders))
    for path in _files_in(places, ".safetensors"):
        try:
            with safe_open(path, framework="numpy") as opened:
                header = json.loads((opened.metadata() or {}).get("itda", "{}"))
        except (OSError, ValueError, SafetensorError, RecursionError):
            continue
        if isinstance(header, dict) and header.get("format") == _VECTOR:
            found[_unique(path.stem, found)] = path
    return found


def _files_in(places: Iterable[Path], suffix: str) -> list[Path]:
    """Files with this suffix, named themselves or in a folder that was, each once."""
    found: dict[Path, None] = {}
    for place in places:
        own = [place] if place.is_file() and place.suffix == suffix else sorted(place.glob(f"*{suffix}"))
        found |= dict.fromkeys(own)
    return list(found)


def _unique(name: str, taken: Mapping[str, Any]) -> str:
    """A name that can stand in an address, and that nothing else has."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "dictionary"
    number = 2
    found = plain
    while found in taken:
        found = f"{plain}-{number}"
        number += 1
    return found

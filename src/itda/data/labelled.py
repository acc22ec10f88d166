"""Texts that belong together, from the files people keep them in: with a label, in pairs, or a list of one kind."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itda.errors import CorpusError
from itda.texts import clean


def read_labelled(
    path: str | Path, *, text_field: str = "text", label_field: str = "label", encoding_errors: str = "strict"
) -> tuple[list[str], list[str]]:
    """Texts and their labels.

    Args:
        path: a .jsonl file of objects, a .json list of them, or a .csv or .tsv table with a header.
        text_field, label_field: what the two are called there.
        encoding_errors: `strict`, or `replace` for a file that is not all UTF-8.
    Raises: CorpusError for a file that cannot be read so, with the line that is wrong.
    """
    texts, labels = [], []
    for where, entry in _entries(Path(path), (text_field, label_field), encoding_errors):
        texts.append(_text(entry, text_field, where))
        labels.append(str(entry[label_field]))
    return texts, labels


def read_together(path: str | Path, fields: Sequence[str], *, encoding_errors: str = "strict") -> list[tuple[str, ...]]:
    """Texts that stand under some names in each entry of a file, such as `positive` and `negative`.

    Args:
        path: as of `read_labelled`.
        fields: what they are called.
        encoding_errors: `strict`, or `replace` for a file that is not all UTF-8.
    Raises: CorpusError for a file that cannot be read so, with the entry that is wrong.
    """
    entries = _entries(Path(path), fields, encoding_errors)
    return [tuple(_text(entry, name, where) for name in fields) for where, entry in entries]


def read_list(path: str | Path, *, encoding_errors: str = "strict") -> list[str]:
    """Texts in their order: the strings of a .json list, or the lines of a .txt file that are not empty.

    Raises: CorpusError for anything else.
    """
    file = Path(path)
    if file.suffix not in (".json", ".txt"):
        raise CorpusError(f"A list of texts is a .json list of strings, or a .txt file of lines. Got {file.name!r}.")
    found = _read(file, {".json": _json, ".txt": lambda content, _: content.split("\n")}, encoding_errors)
    if not all(isinstance(text, str) for text in found):
        raise CorpusError(f"{file} is no list of strings.")
    return [clean(text, f"Text {place} of {file}") for place, text in enumerate(found, 1) if text.strip()]


def _entries(file: Path, fields: Sequence[str], encoding_errors: str) -> list[tuple[str, dict[str, Any]]]:
    """Every entry that a file has, all of them with all the fields, and where it is."""
    readers = {".json": _json, ".jsonl": _json_lines, ".csv": _table, ".tsv": _table}
    if file.suffix not in readers:
        raise CorpusError(f"Labelled texts come in .jsonl, .json, .csv or .tsv files. Got {file.name!r}.")
    entries = []
    for place, entry in enumerate(_read(file, readers, encoding_errors), 1):
        where = f"Entry {place} of {file}"
        if not isinstance(entry, dict) or any(entry.get(name) is None for name in fields):
            has = f"; it has {', '.join(map(repr, entry))}" if isinstance(entry, dict) else ""
            names = " or no ".join(map(repr, fields))
            raise CorpusError(f"{where} has no {names}{has}. Name the fields that it has.")
        entries.append((where, entry))
    return entries


def _read(file: Path, readers: dict[str, Any], encoding_errors: str) -> list[Any]:
    try:
        content = file.read_text(encoding="utf-8-sig", errors=encoding_errors)  # tables often have a mark in front
        found: list[Any] = readers[file.suffix](content, file)
    except (OSError, ValueError, csv.Error) as error:
        raise CorpusError(f"{file} cannot be read: {error}.") from error
    return found


def _text(entry: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(entry[name], str):
        raise CorpusError(f"{where} has a {name!r} that is no text.")
    return clean(entry[name], where)


def _json(content: str, file: Path) -> list[Any]:
    found = json.loads(content)
    if not isinstance(found, list):
        raise ValueError("it is not a list of objects")
    return found


def _json_lines(content: str, file: Path) -> list[Any]:
    return [json.loads(line) for line in content.split("\n") if line.strip()]


def _table(content: str, file: Path) -> list[Any]:
    return list(csv.DictReader(io.StringIO(content), delimiter="\t" if file.suffix == ".tsv" else ","))

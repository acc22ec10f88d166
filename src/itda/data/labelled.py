"""Texts with a label each, from the files people keep them in."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from itda.data.text_files import clean
from itda.errors import CorpusError


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
    file = Path(path)
    readers = {".json": _json, ".jsonl": _json_lines, ".csv": _table, ".tsv": _table}
    if file.suffix not in readers:
        raise CorpusError(f"Labelled texts come in .jsonl, .json, .csv or .tsv files. Got {file.name!r}.")
    try:
        content = file.read_text(encoding="utf-8", errors=encoding_errors)
        found = readers[file.suffix](content, file)
    except (OSError, ValueError, csv.Error) as error:
        raise CorpusError(f"{file} cannot be read: {error}.") from error
    texts, labels = [], []
    for place, entry in enumerate(found, 1):
        where = f"Entry {place} of {file}"
        if not isinstance(entry, dict) or entry.get(text_field) is None or entry.get(label_field) is None:
            has = f"; it has {', '.join(map(repr, entry))}" if isinstance(entry, dict) else ""
            raise CorpusError(f"{where} has no {text_field!r} or no {label_field!r}{has}. Name the fields that it has.")
        if not isinstance(entry[text_field], str):
            raise CorpusError(f"{where} has a {text_field!r} that is no text.")
        texts.append(clean(entry[text_field], where))
        labels.append(str(entry[label_field]))
    return texts, labels


def _json(content: str, file: Path) -> list[Any]:
    found = json.loads(content)
    if not isinstance(found, list):
        raise ValueError("it is not a list of objects")
    return found


def _json_lines(content: str, file: Path) -> list[Any]:
    return [json.loads(line) for line in content.split("\n") if line.strip()]


def _table(content: str, file: Path) -> list[Any]:
    return list(csv.DictReader(io.StringIO(content), delimiter="\t" if file.suffix == ".tsv" else ","))

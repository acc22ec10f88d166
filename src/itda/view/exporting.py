"""Pages as files that open without a server, and a report as one file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from itda.data.drafts import refused, replaced_folder
from itda.data.files import check_file, write_text
from itda.errors import OptionError, OutputError
from itda.options import whole
from itda.view import pages, site
from itda.view.shelf import Shelf
from itda.view.views import VIEWS

_MARK = "itda-pages"  # a file by which a folder of pages is known as ours, to be overwritten


def check_export(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that exists, before any work is done for it; only one of pages is ever overwritten.

    Raises: OutputError.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise OutputError(f"{folder} exists. Choose another folder, or overwrite it (overwrite=True, --overwrite).")
    if not (folder / _MARK).exists():
        raise OutputError(f"{folder} was not written by itda view, so it is not overwritten. Choose another one.")


def export(
    shelf: Shelf,
    folder: str | Path,
    *,
    atoms: int = 1000,
    explained: Mapping[str, Sequence[dict[str, Any]]] | None = None,
    overwrite: bool = False,
) -> int:
    """Write the pages of a shelf as files, whole or not at all.

    Args:
        shelf: what is shown.
        folder: where.
        atoms: of each dictionary, pages of so many of the most used atoms.
        explained: what `WhatIf.explain` gave, by dictionary.
        overwrite: replace a folder of pages.
    Returns: how many pages there are.
    Raises: OutputError if the folder exists or cannot be written.
    """
    atoms = whole("atoms", atoms)
    where = Path(folder)
    check_export(where, overwrite=overwrite)
    texts = {name: list(found) for name, found in (explained or {}).items()}
    shown = site.Site(shelf, live=False, explained=texts, atoms=atoms)
    count = 0
    with replaced_folder(where.resolve()) as draft:
        (draft / _MARK).touch()
        for path, answer in _all(shown, shelf):
            try:
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                (draft / path).write_bytes(answer.content)
            except OSError as error:
                raise refused(where / path, error) from error
            count += path.endswith(".html")
    return count


def _all(shown: site.Site, shelf: Shelf) -> Iterator[tuple[str, site.Answer]]:
    yield "index.html", shown.index()
    for name in site.STATIC:
        yield f"static/{name}", site.static(name)
    if shelf.results:
        yield "compare.html", shown.compare()
    for name, book in shelf.books.items():
        yield f"d/{name}/index.html", shown.dictionary(name)
        yield f"d/{name}/atoms.js", shown.table_script(name)
        yield f"d/{name}/explain.html", shown.explain(name)
        for view in VIEWS:
            yield f"d/{name}/views/{view}.html", shown.view(name, view)
        if shown.explained(name):
            yield f"d/{name}/explained.js", shown.explained_script(name)
        for atom in shown.written(name) or range(len(book.records)):
            yield f"d/{name}/atoms/{atom}.html", shown.atom(name, atom)


def report(shelf: Shelf, name: str, path: str | Path, *, atoms: int = 30, contexts: int = 4) -> Path:
    """Write one self-contained HTML file about a dictionary: what it is, what it is worth, its largest atoms.

    Args:
        shelf: where it is.
        name: which of its dictionaries.
        path: the file; it is replaced.
        atoms: so many, those that carry the most energy.
        contexts: of each, so many of the strongest.
    Raises: OptionError; OutputError if it cannot be written.
    """
    where = check_report(path)
    atoms = whole("atoms", atoms)
    book = shelf.book(name)
    records = book.records
    largest = sorted(range(len(records)), key=lambda atom: (-records.energies[atom], -records.counts[atom], atom))
    facts = [
        {**(found := pages.atom(records, atom)), "positive": found["positive"][:contexts],
         "negative": found["negative"][:contexts], "note": book.notes[atom]}
        for atom in largest[:atoms]
    ]  # fmt: skip
    page = site.environment().get_template("report.html").render(
        name=name, root="", names=[], here=name, live=False, token="", compared=False, atoms=facts,
        style=site.static("itda.css").content.decode(), lines=pages.summary(records), scores=pages.fidelity(records),
        charts=pages.dictionary_charts(records), chart_names=site.CHARTS,
    )  # fmt: skip
    write_text(where, page)
    return where


def check_report(path: str | Path) -> Path:
    """A path to which a report can be written, asked before the work for it.

    Raises: OptionError for another ending than .html; OutputError.
    """
    where = Path(path)
    if where.suffix != ".html":
        raise OptionError(f"A report is written as .html. Got {where.name!r}.")
    check_file(where)
    return where

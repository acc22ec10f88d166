"""Every page by its path: the same for a server and for files that are written out, with links that hold in both."""

import json
from functools import cache
from importlib.resources import files as package_files
from typing import Any, NamedTuple

from markupsafe import Markup

from itda.errors import MissingExtraError, OptionError
from itda.html import visible
from itda.view import pages, results
from itda.view.notes import LONGEST
from itda.view.shelf import Book, Shelf
from itda.view.views import VIEWS

ROWS = 100  # of the table that are in the page itself
COLUMNS = {"atom": "atom", "token": "token", "uses": "uses", "size": "size", "one_in": "one in", "text": "text"}
CHARTS = ("Atoms by the share of the tokens that use them.", "How much of the codes the largest atoms carry.")
SAMPLE = "The quick brown fox jumps over the lazy dog."
LONGEST_TEXT = 20_000
"""Characters that may be typed to be explained."""
LONGEST_ANSWER = 100
"""Tokens at most that a text is gone on with."""
STATIC = {
    "itda.css": "text/css", "icon.svg": "image/svg+xml",
    **dict.fromkeys(("ask.js", "dictionary.js", "atom.js", "explain.js", "steer.js"), "text/javascript"),
}  # fmt: skip


class Answer(NamedTuple):
    """A page or file."""

    content: bytes
    kind: str
    """Its media type."""


class Site:
    """The pages of a shelf.

    Args:
        shelf: what is shown.
        live: whether a server answers, so that texts can be explained and notes saved.
        token: what a page has to send to be allowed to write.
        explained: texts that were explained beforehand, by dictionary.
        atoms: of each dictionary, so many of the most used have a page; all by default.
    """

    def __init__(
        self, shelf: Shelf, *, live: bool, token: str = "", explained: dict[str, list[dict[str, Any]]] | None = None,
        atoms: int | None = None,
    ) -> None:  # fmt: skip
        self.shelf, self.live, self.token = shelf, live, token
        self._explained = explained or {}
        self._tables: dict[str, dict[str, Any]] = {}
        self._scripts: dict[str, Answer] = {}
        self._written: dict[str, frozenset[int] | None] = {}
        self._atoms = atoms

    def index(self) -> Answer:
        """All dictionaries."""
        listed = [{"name": name, "lines": pages.summary(book.records)[:6]} for name, book in self.shelf.books.items()]
        return self._page("index.html", 0, dictionaries=listed)

    def dictionary(self, name: str) -> Answer:
        """What a dictionary is, and its most used atoms.

        Raises: OptionError for an unknown name.
        """
        book = self.shelf.book(name)
        records, columns = book.records, self.table(name)
        order = sorted(range(len(records)), key=lambda atom: (-columns["uses"][atom], -atom))[:ROWS]
        rows = [
            {"atom": atom, "token": columns["token"][atom], "uses": f"{columns['uses'][atom]:,}",
             "size": f"{columns['size'][atom]:.2f}", "text": columns["text"][atom],
             "one_in": "" if columns["one_in"][atom] is None else f"{columns['one_in'][atom]:,}",
             "page": self._has_page(name, atom)}
            for atom in order
        ]  # fmt: skip
        return self._page(
            "dictionary.html", 2, name, lines=pages.summary(records), scores=pages.fidelity(records),
            charts=pages.dictionary_charts(records), columns=COLUMNS.items(), rows=rows, total=f"{len(records):,}",
            chart_names=CHARTS, predicts=records.facts["predicts"],
            map_name=records.facts["map"], views=list(VIEWS),
        )  # fmt: skip

    def written(self, name: str) -> list[int] | None:
        """The atoms that have a page: the most used, and those of texts that were explained; None for all."""
        counts = self.shelf.book(name).records.counts
        if self._atoms is None or self._atoms >= len(counts):
            return None
        used = sorted(range(len(counts)), key=lambda atom: (-counts[atom], atom))[: self._atoms]
        tokens = (token for text in self.explained(name) for token in text["tokens"])
        return sorted({*used, *(piece["atom"] for token in tokens for piece in token["pieces"])})

    def explained(self, name: str) -> list[dict[str, Any]]:
        """The texts that were explained beforehand."""
        return self._explained.get(name, [])

    def table(self, name: str) -> dict[str, Any]:
        """All atoms as columns.

        Raises: OptionError for an unknown name.
        """
        if name not in self._tables:
            self._tables[name] = {**pages.table(self.shelf.book(name).records), "pages": self.written(name)}
        return self._tables[name]

    def table_script(self, name: str) -> Answer:
        """The same as a script: a page that was opened from a file may load scripts, and nothing else."""
        if name not in self._scripts:
            self._scripts[name] = _script("itdaAtoms", self.table(name))
        return self._scripts[name]

    def atom(self, name: str, number: int) -> Answer:
        """One atom.

        Raises: OptionError for an unknown name or number.
        """
        book = self.shelf.book(name)
        facts = pages.atom(book.records, number)
        for other in (*facts["together"], *facts["nearest"]):
            other["page"] = self._has_page(name, other["atom"])
        last = len(book.records) - 1
        return self._page(
            "atom.html", 3, name, atom=facts, chart=pages.atom_chart(book.records, number), note=book.notes[number],
            previous=number - 1 if number and self._has_page(name, number - 1) else None,
            next=number + 1 if number < last and self._has_page(name, number + 1) else None,
            tokens=len(book.records.tokens), predicts=book.records.facts["predicts"], longest_note=LONGEST,
        )  # fmt: skip

    def explain(self, name: str) -> Answer:
        """Where a text is typed, or those that were explained beforehand are shown.

        Raises: OptionError for an unknown name.
        """
        book = self.shelf.book(name)
        return self._page(
            "explain.html", 2, name, explained=self.explained(name), sample=_sample(book),
            longest_text=LONGEST_TEXT,
        )  # fmt: skip

    def steer(self, name: str) -> Answer:
        """Where a text is typed that the model goes on with, with what steers it.

        Raises: OptionError for an unknown name.
        """
        book = self.shelf.book(name)
        return self._page(
            "steer.html", 2, name, sample=_sample(book)[:100], longest_text=LONGEST_TEXT, atoms=len(book.records),
            vectors=list(self.shelf.vectors), longest_answer=LONGEST_ANSWER,
        )  # fmt: skip

    def view(self, name: str, view: str) -> Answer:
        """A page that another package adds.

        Raises: OptionError for an unknown name, or if the package fails.
        """
        book = self.shelf.book(name)
        if view not in VIEWS:
            raise OptionError(f"There is no view {visible(view)!r}. There are {', '.join(VIEWS) or 'none'}.")
        found = VIEWS[view]
        try:
            content = found.render(book.records)
        except Exception as error:  # whatever a package of someone else's leads to
            raise OptionError(f"The view {view!r} failed: {type(error).__name__}: {error}") from error
        return self._page("view.html", 3, name, title=found.title, content=content)

    def explained_script(self, name: str) -> Answer:
        """The texts that were explained beforehand."""
        return _script("itdaExplained", self.explained(name))

    def compare(self) -> Answer:
        """The results of comparisons.

        Raises: OptionError if there are none.
        """
        if not self.shelf.results:
            raise OptionError("No results of itda compare are in these folders. Write some with --out FILE.json.")
        shown = [results.result(file, content) for file, content in self.shelf.results.items()]
        return self._page("compare.html", 0, "compare", results=shown)

    def error(self, status: int, title: str, message: str, depth: int) -> Answer:
        """What went wrong, as a page."""
        return self._page("error.html", depth, status=status, title=title, message=message)

    def _has_page(self, name: str, atom: int) -> bool:
        if name not in self._written:
            written = self.written(name)
            self._written[name] = None if written is None else frozenset(written)
        own = self._written[name]
        return own is None or atom in own

    def _page(self, template: str, depth: int, here: str = "", **content: Any) -> Answer:
        page = environment().get_template(template).render(
            root="../" * depth, names=list(self.shelf.books), here=here, name=here, live=self.live, token=self.token,
            compared=bool(self.shelf.results), **content,
        )  # fmt: skip
        return Answer(page.encode(), "text/html; charset=utf-8")


def static(name: str) -> Answer:
    """A file that pages need.

    Raises: OptionError if there is none of that name.
    """
    if name not in STATIC:
        raise OptionError(f"There is no file {visible(name)!r}.")
    return Answer(package_files("itda.view").joinpath("static", name).read_bytes(), f"{STATIC[name]}; charset=utf-8")


@cache
def environment() -> Any:
    """Templates in which all that is not markup already is escaped.

    Raises: MissingExtraError without Jinja2.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("A page", "view") from error
    made = Environment(
        loader=PackageLoader("itda.view"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["visible"] = visible
    made.filters["style"] = Markup  # of our own style sheet, in a page that is one file
    made.globals["share_of"] = lambda row: f"{row['share']:.0%}"
    made.globals["cosine_of"] = lambda row: f"{row['cosine']:+.2f}"
    return made


def _sample(book: Book) -> str:
    """Text that the dictionary's model is likely to know: what stands around an atom that is used much."""
    records = book.records
    if not len(records.windows):
        return SAMPLE
    text = records.windows[int(records.parts[0, 0])] if records.parts[0, 0] >= 0 else SAMPLE
    return " ".join(text.split())[:200] or SAMPLE


def _script(name: str, content: Any) -> Answer:
    # JSON is JavaScript but for what ends a script element, which nobody escapes here: the file is no element
    plain = json.dumps(content, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Answer(f"window.{name} = {plain};\n".encode(), "text/javascript; charset=utf-8")

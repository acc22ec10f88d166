"""itda view, itda report"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itda.cli import common
from itda.errors import OptionError

if TYPE_CHECKING:
    from itda.data.dictionary import Dictionary
    from itda.models.loading import Model
    from itda.view.shelf import Book

Corpus = Annotated[
    Path | None,
    typer.Option(
        "--corpus",
        help="Text in which atoms are looked for; by default the embedded text for the embedded model, and for others "
        "the stretches that atoms come from.",
    ),
]
Tokens = Annotated[
    int | None, typer.Option(help="Read about so many tokens to prepare pages; 100,000 by default.", show_default=False)
]
Effects = Annotated[
    int | None,
    typer.Option(
        help="While preparing, leave out so many of the most used atoms to see what changes at the output; none by "
        "default.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Which text is read to prepare pages, and how atoms lie on the map; 0 by default.", show_default=False
    ),
]
_TOKENS, _EFFECTS = 100_000, 0


def view(
    context: typer.Context,
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of dictionaries, or that hold some; results of `itda compare ... --out` and steering vectors."
        ),
    ],
    prepare: Annotated[bool, typer.Option("--prepare", help="Prepare the pages anew, and stop.")] = False,
    export: Annotated[Path | None, typer.Option(help="Write the pages as files to this folder, and stop.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="With --export: explain this text there; may be given several times."),
    ] = None,
    atoms: Annotated[int, typer.Option(help="With --export: pages of so many of the most used atoms.")] = 1000,
    overwrite: common.Overwrite = False,
    corpus: Corpus = None,
    model: common.OtherModel = None,
    tokens: Tokens = None,
    effects: Effects = None,
    host: Annotated[
        str, typer.Option(help="The address to answer at. One that other machines can reach asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 for any that is free.")] = 8765,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
    site: common.Place = None,
    any_model: common.AnyModel = False,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: Seed = None,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
) -> None:
    """Look at dictionaries in the browser: their atoms with the texts they come from, and any text explained.

    The first time, what the pages show is prepared: the model reads a text. That is kept in a folder beside the
    dictionary, and read from there later on.

    Example: `itda view runs/l2`
    """
    _check_extra()
    from itda.view import exporting, serving
    from itda.view.shelf import Shelf

    if prepare and export is not None:
        raise OptionError("--prepare stops before anything is written. Prepare first, then call again with --export.")
    if text and export is None:
        raise OptionError("--text is explained in pages that are written with --export. Served, any text can be typed.")
    if export is not None:
        common.refuse_unused(context, ["host", "port", "browser"], "With --export nothing is served.")
        exporting.check_export(export, overwrite=overwrite)
    else:
        common.refuse_unused(context, ["atoms", "overwrite"], "These are for pages that are written with --export.")
    opener = _Opener(
        lambda name: common.open_model(name, device, dtype, attention, tokenizer),
        lambda name, chats: _text(corpus, name, split_on, text_field, encoding_errors, chats=chats),
        {"tokens": tokens, "effects": effects, "seed": seed}, {"site": site, "check_model": not any_model}, model,
        corpus is not None,
    )  # fmt: skip
    opener.prepare(folders, anew=prepare)
    if prepare:
        return
    shelf = Shelf.open(folders)
    if export is None:
        serving.serve(shelf, opener.ask, typer.echo, host=host, port=port, browser=browser)
        return
    explained = {name: [opener.ask(book).explain(one) for one in text or ()] for name, book in shelf.books.items()}
    count = exporting.export(shelf, export, atoms=atoms, explained=explained, overwrite=overwrite)
    print(f"{count:,} pages in {export}: open {export / 'index.html'}")


def report(
    folder: common.Folder,
    out: Annotated[Path, typer.Option(help="The HTML file to write; it is replaced.")],
    atoms: Annotated[int, typer.Option(help="How many atoms, those that carry the most.")] = 30,
    corpus: Corpus = None,
    model: common.OtherModel = None,
    tokens: Tokens = None,
    effects: Effects = None,
    site: common.Place = None,
    any_model: common.AnyModel = False,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: Seed = None,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
) -> None:
    """Write one HTML file about a dictionary that can be sent to anybody.

    It is made of what `itda view` prepares, which is done if it has not been.

    Example: `itda report runs/l2 --out report.html`
    """
    _check_extra()
    from itda.view import exporting
    from itda.view.shelf import Shelf, dictionaries_in

    opener = _Opener(
        lambda name: common.open_model(name, device, dtype, attention, tokenizer),
        lambda name, chats: _text(corpus, name, split_on, text_field, encoding_errors, chats=chats),
        {"tokens": tokens, "effects": effects, "seed": seed}, {"site": site, "check_model": not any_model}, model,
        corpus is not None,
    )  # fmt: skip
    exporting.check_report(out)
    if len(found := dictionaries_in([folder])) != 1:
        raise OptionError(f"A report is of one dictionary. {folder} holds {len(found)}: name the folder of one.")
    opener.prepare([folder], anew=False)
    shelf = Shelf.open([folder])
    print(exporting.report(shelf, next(iter(shelf.books)), out, atoms=atoms))


@dataclass(frozen=True)
class _Opener:
    """How dictionaries, models and text are opened, when they are first needed; a model once, however many need it."""

    load: "Callable[[str], Model]"
    text: Callable[[str, bool], Any]
    """The corpus that was named, if one was, for a model of some name; of conversations or not."""
    asked: dict[str, Any]
    """What to prepare, None where nothing was asked for."""
    options: dict[str, Any]
    named: str | None
    """The model that was named in place of those that the dictionaries name."""
    has_text: bool
    """Whether a text was named."""
    models: "dict[str, Model]" = field(default_factory=dict)

    def both(self, folder: Path) -> "tuple[Dictionary, Model | None]":
        """A dictionary and its model; None for one of a bare array, if no model was named."""
        from itda.data.dictionary import Dictionary

        dictionary = Dictionary.from_pretrained(str(folder))
        name = self.named or (dictionary.model_id if dictionary.provenance else None)
        if name is None:
            return dictionary, None
        if name not in self.models:
            self.models[name] = self.load(name)
        return dictionary, self.models[name]

    def prepare(self, folders: list[Path], *, anew: bool) -> None:
        """Prepare what has not been prepared, or not as was asked, or everything anew."""
        from itda.view import shelf

        found = shelf.dictionaries_in(folders)
        if self.named is not None and len(owners := shelf.models_of(found)) > 1:
            raise OptionError(
                f"These dictionaries are of different models ({', '.join(owners)}), and --model names one for all. "
                "Show them one at a time, or leave --model out."
            )
        for folder in found:
            if not anew and shelf.is_ready(folder) and not self._differs(folder):
                continue
            from itda.view.preparing import prepare

            typer.echo(f"Preparing the pages of {folder}.", err=True)
            wanted = {name: value for name, value in self.asked.items() if value is not None}
            with common.plain_warnings():
                dictionary, model = self.both(folder)
                text = self.text(model.id, common.is_of_chats(dictionary)) if model else None
                options = {"tokens": _TOKENS, "effects": _EFFECTS, **wanted, **self.options}
                records = prepare(dictionary, model, text, name=folder.name, **options)
            records.save(folder)

    def _differs(self, folder: Path) -> bool:
        """Whether pages were prepared from another text or with other options than are asked for now."""
        from itda.view.shelf import open_records

        made = open_records(folder).facts.get("asked", {})
        if any(value is not None and made.get(name) != value for name, value in self.asked.items()):
            return True
        if not self.has_text:
            return False
        dictionary, model = self.both(folder)
        text = self.text(model.id, common.is_of_chats(dictionary)) if model else None
        return bool(text is not None and made.get("corpus") != text.fingerprint)

    def ask(self, book: "Book") -> Any:
        """What answers questions about texts."""
        from itda.view.shelf import StaleError
        from itda.view.what_if import WhatIf

        dictionary, model = self.both(book.folder)
        if dictionary.fingerprint != book.records.facts["fingerprint"]:
            raise StaleError(
                f"{book.folder} now holds another dictionary than when these pages were opened. Start itda view again."
            )
        if model is None:
            raise OptionError("This dictionary was built from a bare array. Say what it is of: --model and --site.")
        dictionary.prepare(memory=0)  # for a text at a time, inner products of all atoms cost more than they save
        return WhatIf(dictionary, model, site=self.options["site"], check_model=self.options["check_model"])


def _text(
    path: Path | None, model: str, split_on: str | None, text_field: str, encoding_errors: str, *, chats: bool
) -> Any:
    """The corpus that was named; else the embedded one for the embedded model, and none for others."""
    if path is None and model != common.EMBEDDED:
        return None
    return common.open_corpus(path, model, split_on, text_field, encoding_errors, chats=chats)


def _check_extra() -> None:
    from importlib.util import find_spec

    from itda.errors import MissingExtraError

    if not all(find_spec(name) for name in ("fastapi", "uvicorn", "jinja2")):
        raise MissingExtraError("Looking at dictionaries in the browser", "view")

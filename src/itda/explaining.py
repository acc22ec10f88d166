"""A text, token by token, as sums of atoms: what the model holds there, in other people's words."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor

from itda import progress as progress_bars
from itda.capturing import decomposed, window_length
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.heads import name_heads
from itda.data.mixtures import Ingredient
from itda.data.provenance import Provenance
from itda.data.sources import Source
from itda.errors import CorpusError, MismatchError, OptionError
from itda.html import MINUS, PLUS, element, join, table, visible
from itda.models import tokenizing
from itda.models.loading import Model, checked_model
from itda.models.sites import Site
from itda.models.tokenizing import TokenWindow
from itda.pursuit import Codes, Coding
from itda.shown import Quote, Shown, printable
from itda.texts import clean

_SHOWN = 3  # atoms of a token on the terminal
_CONTEXT = 34  # characters of an atom's text before its token on the terminal


class Piece(NamedTuple):
    """One atom in the code of a token."""

    atom: int
    coefficient: float
    """In the units of the activations."""
    source: Source
    mixture: tuple[Ingredient, ...] = ()
    """What the atom is mixed from, where it is."""
    named: bool = True
    """Whether the source is what the atom is; otherwise it is an example of what uses it."""
    heads: str = ""
    """At `attn_heads`, the heads with most of it."""

    @property
    def by_example(self) -> bool:
        """Whether the source is shown as an example of what uses the atom."""
        return not self.named and self.source.document is not None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        mixed = [{"weight": part.weight, "source": part.source.to_dict()} for part in self.mixture]
        return {
            "atom": self.atom,
            "coefficient": self.coefficient,
            "source": self.source.to_dict(),
            "named": self.named,
            **({"heads": self.heads.removesuffix(": ")} if self.heads else {}),
            **({"mixture": mixed} if mixed else {}),
        }


@dataclass(frozen=True)
class ExplainedToken:
    """One token of the text."""

    token: str
    token_id: int
    char_start: int
    char_end: int
    unexplained: float | None
    """Share of its activation that the atoms miss; None if the dictionary is not meant for it."""
    pieces: tuple[Piece, ...]
    """Its atoms, the largest coefficients first."""
    left_out: str | None = None
    """Why it was not decomposed: `special` or `sink`."""


@dataclass(frozen=True, repr=False)
class Explanation(Shown):
    """A text as atoms. Print it, or take `to_json()`."""

    text: str
    tokens: tuple[ExplainedToken, ...]
    model_id: str
    site: str
    atoms: int
    """Size of the dictionary."""

    @property
    def unexplained(self) -> float | None:
        """Mean unexplained share of the decomposed tokens; None if none was."""
        shares = [token.unexplained for token in self.tokens if token.unexplained is not None]
        return sum(shares) / len(shares) if shares else None

    @property
    def _title(self) -> str:
        missed = "nothing decomposed" if self.unexplained is None else f"{self.unexplained:.1%} unexplained"
        return f"{self.site} of {self.model_id}, {self.atoms:,} atoms: {missed}"

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "text": self.text,
            "model": self.model_id,
            "site": self.site,
            "atoms": self.atoms,
            "unexplained": self.unexplained,
            "tokens": [
                {
                    "token": token.token,
                    "token_id": token.token_id,
                    "char_start": token.char_start,
                    "char_end": token.char_end,
                    "unexplained": token.unexplained,
                    "left_out": token.left_out,
                    "pieces": [piece.to_dict() for piece in token.pieces],
                }
                for token in self.tokens
            ],
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(
            # Text, not a string: a path may hold what rich reads as markup
            title=Text(self._title, "bold"),
            title_justify="left",
            show_edge=False,
            pad_edge=False,
            expand=True,
        )
        table.add_column("token", style="bold", no_wrap=True, min_width=8)
        table.add_column("missed", justify="right", no_wrap=True, min_width=6)
        heading = f"coefficient and atom, the largest {_SHOWN}, and the text each comes from"
        table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=1)
        for token in self.tokens:
            missed = "" if token.unexplained is None else f"{token.unexplained:.0%}"
            lines: list[Text | Quote] = [_line(piece) for piece in token.pieces[:_SHOWN]]
            if token.left_out:
                lines = [Text(f"not decomposed ({token.left_out})", style="dim")]
            table.add_row(Text(printable(token.token)), missed, Group(*lines))
        yield table

    def _repr_html_(self) -> str:
        rows = []
        for token in self.tokens:
            missed = "" if token.unexplained is None else f"{token.unexplained:.0%}"
            atoms = join([_fragment(piece) for piece in token.pieces[:_SHOWN]], "\n")
            if token.left_out:
                atoms = element("i", f"not decomposed ({token.left_out})")
            rows.append((element("b", visible(token.token)), missed, atoms))
        return str(
            table(self._title, ("token", "missed", "atoms: coefficient, number, and the text each comes from"), rows)
        )

    def to_svg(self, *, width: int = 110) -> str:
        """The table as a picture, self-contained: no font is fetched from anywhere."""
        console = Console(file=io.StringIO(), record=True, width=width)
        console.print(self)
        picture = console.export_svg(title="itda explain", unique_id="itda")
        before, _, rest = picture.partition("@font-face")
        return before + rest[rest.rindex("}", 0, rest.index(".itda-matrix")) + 1 :].lstrip() if rest else picture


def explain(
    dictionary: Dictionary,
    model: Model,
    text: str,
    *,
    steps: int | None = None,
    coding: Coding | None = None,
    site: str | None = None,
    check_model: bool = True,
    backend: str = "auto",
    progress: bool = True,
) -> Explanation:
    """Write the activation at each token of a text as a sum of atoms.

    Args:
        dictionary: what to explain with.
        model: the model it was built on.
        text: any text; a long one is read in windows.
        steps, coding: instead of the dictionary's own coding.
        site: where, for a dictionary that was built from a bare array.
        check_model: refuse a model with other weights than the dictionary's.
        backend: of the pursuit.
        progress: draw a bar on stderr, for a text of several windows.
    Returns: for each token its atoms, coefficients and the text they come from.
    Raises: CorpusError for a text without tokens; MismatchError; OptionError.
    """
    text = clean(text, "the text to explain") if isinstance(text, str) else text
    if not isinstance(text, str) or not text.strip():
        raise CorpusError(f"explain needs a text that is not empty. Got {text!r}.")
    where = place_of(dictionary, model, site, check_model)
    captured: Any = dictionary.provenance.capture if dictionary.provenance else {}
    length = window_length(model, captured)
    parts = tokenizing.windows(model, [text], length=length, bos=captured.get("bos"))[0]
    if not parts:
        raise CorpusError(f"The text {text!r} has no token for this model.")
    names = tokenizing.token_names(model)
    place = model.site(where)
    tokens: list[ExplainedToken] = []
    with progress_bars.bar("explain", len(parts), show=progress and len(parts) > 1) as advance:
        for part in parts:
            values = model.read(tokenizing.batch(model, [part], length=None), [place])[place.name][0].float()
            codes = dictionary.encode(values.cpu(), steps=steps, coding=coding, backend=backend)
            tokens += _explained(dictionary, text, part, names, codes, decomposed(part, values, captured))
            advance(1)
    return Explanation(text, tuple(tokens), model.id, where, len(dictionary))


def _piece(dictionary: Dictionary, atom: int, coefficient: float) -> Piece:
    mixture = tuple(dictionary.mixtures[atom]) if dictionary.mixtures else ()
    named, heads = dictionary.kind != "learned", name_heads(dictionary.atoms[atom], dictionary.provenance)
    return Piece(atom, coefficient, dictionary.sources[atom], mixture, named, heads)


def _explained(
    dictionary: Dictionary, text: str, part: TokenWindow, names: Mapping[int, str], codes: Codes, keep: Tensor
) -> Iterator[ExplainedToken]:
    """The tokens of a window, each with its atoms, the largest coefficients first."""
    for index, kept in enumerate(keep.tolist()):
        start, end, token_id = int(part.starts[index]), int(part.ends[index]), int(part.token_ids[index])
        used = codes.atoms[index] >= 0
        chosen = sorted(
            zip(codes.atoms[index][used].tolist(), codes.coefficients[index][used].tolist(), strict=True),
            key=lambda pair: -abs(pair[1]),
        )
        pieces = tuple(_piece(dictionary, atom, value) for atom, value in chosen)
        yield ExplainedToken(
            token=text[start:end] or names.get(token_id, ""),
            token_id=token_id,
            char_start=start,
            char_end=end,
            unexplained=float(codes.unexplained[index]) if kept else None,
            pieces=pieces if kept else (),
            left_out=None if kept else "special" if part.special[index] else "sink",
        )


def place_of(dictionary: Dictionary, model: Model, site: str | None, check_model: bool) -> str:
    """The site a dictionary is to be used at, once it is clear that it may be.

    Raises: MismatchError for another model; OptionError if the site is unknown or contradicts the dictionary;
        ModelError or OptionError for what is no model or no dictionary.
    """
    checked_dictionary(dictionary)
    checked_model(model)
    provenance: Provenance | None = dictionary.provenance
    if provenance is None:
        if site is None:
            raise OptionError(
                "This dictionary was built from a bare array and belongs to no place of a model. Where there is a "
                "site=, say site='resid_post.3'; for all else, build it from a model's activations (itda.capture)."
            )
        return _as_wide(model.site(site), dictionary.width)
    if check_model:
        provenance.model.check_same(model.record, "This dictionary")
    if site is not None and model.site(site).name != provenance.site:
        raise OptionError(f"This dictionary was built at {provenance.site!r}. Got site={site!r}; leave site out.")
    return _as_wide(model.site(provenance.site), dictionary.width)


def _as_wide(site: Site, width: int) -> str:
    if site.width is not None and site.width != width:
        raise MismatchError(f"The dictionary has width {width}, and {site.name!r} of this model has {site.width}.")
    return site.name


def _fragment(piece: Piece) -> Markup:
    """One atom as markup, on a line of its own."""
    amount = element("span", f"{piece.coefficient:+.2f}", style=f"color:{PLUS if piece.coefficient >= 0 else MINUS}")
    quotes = []
    for weight, source in piece.mixture or ((1.0, piece.source),):
        share = f"{weight:.0%} " if piece.mixture else "e.g. " if piece.by_example else ""
        if source.document is None:
            quotes.append(join([share, source.text]))
            continue
        before, token, after = source.quoted(before=_CONTEXT, after=_CONTEXT // 2)
        quotes.append(join([share, before, element("mark", visible(token)), after]))
    return element("div", amount, f" {piece.atom} {piece.heads}", join(quotes, " | "))


def _line(piece: Piece) -> Quote:
    """One atom on one line; the sign is also a colour, of a pair that colour-blind readers tell apart."""
    colour = "cyan" if piece.coefficient >= 0 else "yellow"
    head = Text.assemble((f"{piece.coefficient:>+9.2f}", colour), (f" {piece.atom:>6}  ", "dim"))
    head.append(piece.heads, "dim")
    if piece.mixture:
        shares = (f"{weight:.0%} {source.shortened(_CONTEXT // 2, 0)}" for weight, source in piece.mixture)
        return Quote("", tail=" | ".join(shares), head=head)
    if piece.by_example:
        head.append("e.g. ", "dim")
    if piece.source.document is None:
        return Quote(piece.source.text, head=head)
    return Quote(*piece.source.quoted(before=_CONTEXT), head=head)

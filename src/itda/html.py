"""Text as markup, and the one place where it becomes that: whatever a corpus holds is shown, and never run."""

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup, escape

from itda.shown import printable

PLUS, MINUS = "#0072B2", "#D55E00"
"""Of what adds and of what takes away: told apart by colour-blind readers too (Okabe & Ito 2008)."""
LONGEST = 400
"""Characters of a text that are shown where nobody says how many; a token can be 100 kB long."""

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """One element. Children and attributes are escaped unless they are markup already.

    Args:
        tag: its name, which is ours and not escaped.
        children: text, markup, or numbers.
        attributes: `class_` for class, `data_atom` for data-atom; True for a bare name, None or False for none.
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        plain = name.rstrip("_").replace("_", "-")
        parts.append(f" {plain}" if value is True else f' {plain}="{escape(value)}"')
    parts.append(">")
    if tag not in _VOID:
        parts += [str(escape(child)) for child in children]
        parts.append(f"</{tag}>")
    return Markup("".join(parts))  # all that was not ours is escaped above


def join(children: Any, between: str = "") -> Markup:
    """Children one after the other, escaped unless they are markup."""
    return Markup(escape(between).join(escape(child) for child in children))  # escaped


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table that stands by itself, as in a notebook cell; cells are escaped unless they are markup."""
    left = {"style": "text-align:left;vertical-align:top"}
    head = element("tr", *(element("th", name, scope="col", **left) for name in columns))
    body = [element("tr", *(element("td", cell, **left) for cell in row)) for row in rows]
    caption = element("caption", title, style="caption-side:top;text-align:left;font-weight:600")
    return element("table", caption, element("thead", head), element("tbody", *body))


def word(text: str, longest: int = LONGEST) -> str:
    """A token as a person can see it: as `visible`, and spaces alone as ␣."""
    return "␣" * min(len(text), longest) if text and not text.strip(" ") else visible(text, longest)


def visible(text: str, longest: int = LONGEST) -> str:
    """A text on one line as a person can see it, cut where it would fill the page: not markup yet.

    Control and direction characters are dots, line ends are arrows, so that nothing turns the line around.
    """
    return printable(text if len(text) <= longest else f"{text[:longest]}…")

"""Results that read the same in a terminal, in a notebook cell and in a log."""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.text import Text


_CELL = '<pre style="white-space:pre;overflow-x:auto;line-height:1.3;font-family:ui-monospace,monospace">{code}</pre>'


class Shown(ABC):
    """What rich draws in a terminal; as a string it is the same in plain text."""

    WIDTH: ClassVar[int] = 120
    """Columns, as a string."""

    @abstractmethod
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult: ...

    def _repr_html_(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=self.WIDTH, record=True, force_jupyter=False)
        console.print(self)
        return console.export_html(inline_styles=True, code_format=_CELL)

    def __repr__(self) -> str:
        return str(self)  # dataclasses must leave it (repr=False): their own would be all numbers in one line

    def __str__(self) -> str:
        from rich.console import Console

        stream = io.StringIO()
        Console(file=stream, width=self.WIDTH, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).rstrip()


def printable(text: str) -> str:
    """The text on one line that no terminal misreads: line ends as ↵, control and direction characters as dots."""
    return "".join(c if c.isprintable() else "↵" if c == "\n" else "·" for c in text)


_MIXED = re.compile(r"\d+% .* \| ")
_MARKED = re.compile(r"(.*)\[([^\[\]]+)\]([^\[\]]*)")
_TAIL = 4  # at least this part of the room is for what comes after the token, if it is so long


class Quote:
    """A token in its text on one line. Where room is short, some of what comes after it goes, then the beginning."""

    def __init__(
        self, lead: str, token: str = "", tail: str = "", *, head: Text | None = None, style: str = ""
    ) -> None:
        self._lead, self._token, self._tail = lead, f"[{token}]" if token else "", tail
        self._head, self._style = head, style

    @classmethod
    def of(cls, text: str) -> Quote:
        """An atom as `Dictionary.describe` has it: of a mixture, the largest shares stay."""
        if _MIXED.match(text):
            return cls("", tail=text)
        marked = _MARKED.fullmatch(text)
        return cls(*marked.groups()) if marked else cls(text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.cells import cell_len
        from rich.text import Text

        line = self._head.copy() if self._head else Text()
        line.no_wrap, line.overflow = True, "ellipsis"
        room = max(0, options.max_width - line.cell_len - cell_len(self._token))
        tail = _shortened(self._tail, max(room // _TAIL, room - cell_len(self._lead)))
        lead = _shortened(self._lead[::-1], room - cell_len(tail))[::-1]
        yield line.append(lead, self._style).append(self._token, f"bold {self._style}").append(tail, self._style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.cells import cell_len
        from rich.measure import Measurement

        head = self._head.cell_len if self._head else 0
        whole = head + cell_len(self._lead + self._token + self._tail)
        return Measurement(min(whole, options.max_width, head + 24), min(whole, options.max_width))


def _shortened(text: str, cells: int) -> str:
    """The beginning of a text that has room, with an ellipsis where something is missing."""
    from rich.cells import cell_len

    if cell_len(text) <= cells:
        return text
    while text and cell_len(text) > cells - 1:
        text = text[:-1]
    return f"{text}…" if cells > 0 else ""

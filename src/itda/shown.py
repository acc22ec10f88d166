"""Results that read the same in a terminal, in a notebook cell and in a log."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


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

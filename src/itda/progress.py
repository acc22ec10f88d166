"""Progress on stderr, so that results on stdout stay clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Advance = Callable[[float], None]


class Bar:
    """A line of progress: called with how much more is done. Without anything to draw on, it is silent."""

    def __init__(self, drawn: Progress | None = None, task: TaskID | None = None) -> None:
        self._drawn, self._task = drawn, task

    def __call__(self, done: float) -> None:
        """So much more is done."""
        if self._drawn is not None and self._task is not None:
            self._drawn.advance(self._task, done)

    def then(self, what: str, total: float) -> Bar:
        """Another line below it, for what comes next."""
        return Bar(self._drawn, self._drawn.add_task(what, total=total)) if self._drawn is not None else self


SILENT = Bar()


@contextmanager
def bar(what: str, total: float | None, *, show: bool) -> Iterator[Bar]:
    """A progress bar with the time left, to be called with how much more is done.

    Nothing is drawn where `show` is false or stderr is no terminal.
    """
    if not show:
        yield SILENT
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task(what, total=total))

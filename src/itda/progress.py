"""Progress on stderr, so that results on stdout stay clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from itda import logs

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Advance = Callable[[float], None]


class Bar:
    """A line of progress: called with how much more is done. Without anything to draw on it draws nothing; logs
    are told all the same."""

    def __init__(
        self, drawn: Progress | None = None, task: TaskID | None = None, what: str = "", total: float | None = None
    ) -> None:
        self._drawn, self._task, self._what, self._total, self._done = drawn, task, what, total, 0.0

    def __call__(self, done: float) -> None:
        """So much more is done."""
        self._done += done
        if self._what:
            logs.progress(self._what, self._done, self._total)
        if self._drawn is not None and self._task is not None:
            self._drawn.advance(self._task, done)

    def then(self, what: str, total: float) -> Bar:
        """Another line below it, for what comes next."""
        task = None if self._drawn is None else self._drawn.add_task(what, total=total)
        return Bar(self._drawn, task, what, total)

    def end(self) -> None:
        """Nothing more comes."""
        if self._what:
            logs.progress(self._what, self._done, self._total, end=True)


SILENT = Bar()


@contextmanager
def bar(what: str, total: float | None, *, show: bool) -> Iterator[Bar]:
    """A progress bar with the time left, to be called with how much more is done.

    Logs that listen (`itda.logs`) are told as well. Nothing is drawn where `show` is false or stderr is no terminal.
    """
    if not show:
        silent = Bar(what=what, total=total)
        yield silent
        silent.end()
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
        drawn = Bar(progress, progress.add_task(what, total=total), what, total)
        yield drawn
        drawn.end()

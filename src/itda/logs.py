"""Experiment logs: whoever wants to is told of progress and of numbers as they are found.

    from itda.adapters import tensorboard

    with itda.logging_to(tensorboard.Log("runs/log")):
        dictionary = itda.build(model, train, atoms=1024)
        itda.evaluate(dictionary, model, held_out)

A log is any object with the methods of `Log`. One that fails is left out from then on, with a warning: no build is
lost because a disk or a network is.
"""

import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from itda.errors import OptionError

_PAUSE = 1.0  # seconds between two reports of progress


@runtime_checkable
class Log(Protocol):
    """What is told of a run."""

    def progress(self, task: str, done: float, total: float | None) -> None:
        """So much of a task is done: at most once a second, and at its end."""

    def metrics(self, name: str, values: Mapping[str, float], step: int) -> None:
        """Numbers were found: `name` says of what (`evaluate/resid_post.2`), `step` counts from 0 by name, or is that
        of a training.
        """

    def close(self) -> None:
        """Nothing more comes."""


class LogWarning(UserWarning):
    """A log failed, and is told nothing more."""


@dataclass
class _Listening:
    logs: list[Log]
    steps: Counter[str] = field(default_factory=Counter)
    told: dict[str, float] = field(default_factory=dict)

    def tell(self, method: str, *args: Any) -> None:
        for log in list(self.logs):
            try:
                getattr(log, method)(*args)
            except Exception as error:  # whatever a log of someone else's leads to
                self.logs.remove(log)
                warnings.warn(
                    f"The log {type(log).__name__} failed and is told nothing more: {type(error).__name__}: {error}",
                    LogWarning,
                    stacklevel=3,
                )


_LISTENING: ContextVar[tuple[_Listening, ...]] = ContextVar("listening", default=())


@contextmanager
def logging_to(*logs: Log) -> Iterator[None]:
    """Tell logs of all that is done in this block; they are closed at its end.

    Raises: OptionError for what is no log.
    """
    for log in logs:
        if not isinstance(log, Log):
            raise OptionError(f"A log has the methods progress, metrics and close. Got {type(log).__name__}.")
    listening = _Listening(list(logs))
    token = _LISTENING.set((*_LISTENING.get(), listening))
    try:
        yield
    finally:
        _LISTENING.reset(token)
        listening.tell("close")


def metrics(name: str, values: Mapping[str, float | None], *, step: int | None = None) -> None:
    """Tell the logs that listen of numbers; those that are None are left out.

    Args:
        name: of what they are.
        values: the numbers by name.
        step: of a training; by default how many times the name came before.
    """
    found = {key: float(value) for key, value in values.items() if value is not None}
    for listening in _LISTENING.get():
        listening.tell("metrics", name, found, listening.steps[name] if step is None else step)
        listening.steps[name] += 1


def progress(task: str, done: float, total: float | None, *, end: bool = False) -> None:
    """Tell the logs that listen how far a task is."""
    for listening in _LISTENING.get():
        now = time.monotonic()
        if end or now - listening.told.get(task, -_PAUSE) >= _PAUSE:
            listening.told[task] = now
            listening.tell("progress", task, done, total)


def is_heard() -> bool:
    """Whether any log listens."""
    return bool(_LISTENING.get())

"""What a long run leaves behind while it works, so that the same run goes on after whatever stopped it.

A checkpoint is a folder of numbered states, each written whole or not at all; the newest that can be read
counts. It knows which run it belongs to, and a lock keeps a second process away.
"""

import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from itda.data import files, locks
from itda.data.drafts import refused
from itda.errors import FormatError, MismatchError
from itda.options import seconds

T = TypeVar("T")
_KIND = "checkpoint"
# States, hidden states of a model on disk, parts of a run on many workers
_OURS = re.compile(rf"\d+|hidden|survey|part-\d+|{re.escape(files.MANIFEST)}|{re.escape(locks.LOCK)}")


class Saved(NamedTuple):
    """One state of a run."""

    facts: dict[str, Any]
    """Plain values."""
    tensors: dict[str, dict[str, Tensor]]
    """File name -> tensors."""


class Checkpoint:
    """The states of one run in a folder. Use it as a context: it holds the folder against other processes.

    While it is open, Ctrl-C is answered at the next `step`, after a state was saved; a second one at once.
    """

    def __init__(self, folder: str | Path, run: Mapping[str, Any], *, every: float = 60.0) -> None:
        """Nothing is written yet.

        Args:
            folder: where the states are; made if need be.
            run: what makes it the same run, as plain values: another run is refused.
            every: seconds between two states.
        Raises: OptionError.
        """
        seconds("every", every)
        self.folder = Path(folder)
        self._run: dict[str, Any] = files.to_plain(run)
        self._every = every
        self._number = 0
        self._safe = time.monotonic()
        self._interrupted = False
        self._open = ExitStack()

    def __enter__(self) -> "Checkpoint":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(self.folder, error) from error
        self._open.enter_context(locks.held(self.folder))
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGINT, self._interrupt)
            self._open.callback(signal.signal, signal.SIGINT, before)
        return self

    def __exit__(self, *_: object) -> None:
        nothing = {path.name for path in self.folder.iterdir()} <= {locks.LOCK}
        self._open.close()
        if nothing:  # it ended before there was anything to go on from
            shutil.rmtree(self.folder, ignore_errors=True)

    def load(self) -> Saved | None:
        """The newest state, or None at the beginning.

        Raises: MismatchError if it belongs to another run, and says in what.
        """
        for number in sorted(self._numbers(), reverse=True):
            try:
                facts, tensors = files.read_folder(self.folder / str(number), _KIND)
                there, state = facts["run"], dict(facts["state"])
            except (FormatError, KeyError, TypeError, ValueError):
                continue  # damaged: the one before it is as good a place to go on from
            check_same_run(there, self._run, self.folder)
            self._number = number
            return Saved(state, tensors)
        return None

    def step(self, state: Callable[[], Saved]) -> None:
        """Save what `state` makes if it is time to, or if the user wants to stop.

        Raises: KeyboardInterrupt in that case; OutputError.
        """
        if self._interrupted or time.monotonic() - self._safe >= self._every:
            self.save(state())
        if self._interrupted:
            raise KeyboardInterrupt

    def save(self, state: Saved) -> None:
        """Write a state, and let the ones before it go.

        Raises: OutputError.
        """
        before = self._numbers()
        self._number = max([self._number, *before]) + 1
        facts = {"run": self._run, "state": state.facts}
        files.write_folder(self.folder / str(self._number), _KIND, facts, state.tensors)
        for number in before:
            shutil.rmtree(self.folder / str(number), ignore_errors=True)
        self._safe = time.monotonic()

    def _numbers(self) -> list[int]:
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdigit() and _is_ours(path)]

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True


def saved_first(blocks: Iterable[T], save: Callable[[], None]) -> Iterator[T]:
    """Blocks one by one; where the next one cannot be had, what was made of those before it is saved, if there are any.

    A corpus may vanish under a long build, and a model run out of memory.
    """
    source, begun = iter(blocks), False
    while True:
        try:
            block = next(source)
        except StopIteration:
            return
        except Exception:
            if begun:
                save()
            raise
        yield block
        begun = True


def check_same_run(there: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> None:
    """Refuse what another run has left in a folder.

    Raises: MismatchError that says in what the runs differ.
    """
    differing = _differences(there, here)
    if differing:
        raise MismatchError(
            f"What is in {folder} belongs to another run: {'; '.join(differing[:4])}. Run that one again to end it, "
            "or remove the folder to begin anew (itda build --restart does)."
        )


def remove(folder: Path) -> None:
    """Delete a checkpoint, or what parts of a run have left; what is not ours stays.

    Raises: OutputError if another process is writing it.
    """
    if not is_begun(folder):
        return
    with locks.held(folder):
        pass
    for path in folder.iterdir():
        if _is_ours(path):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    with suppress(OSError):  # something else is in it
        folder.rmdir()


def is_begun(folder: Path) -> bool:
    """Whether a run has left anything there to go on from."""
    return folder.is_dir() and any(_is_ours(path) and path.name != locks.LOCK for path in folder.iterdir())


def _is_ours(path: Path) -> bool:
    """By its name; a number may as well be that of a step of somebody's training."""
    return bool(_OURS.fullmatch(path.name)) and (not path.name.isdigit() or (path / files.MANIFEST).is_file())


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """What differs between two runs, each as `name was this, is that`."""
    if isinstance(there, dict) and isinstance(here, dict):
        parts = [_differences(there.get(key), here.get(key), key) for key in sorted({*there, *here})]
        return [line for part in parts for line in part]
    return [] if there == here else [f"{name} was {there!r}, is {here!r}"]

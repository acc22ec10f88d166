"""One writer at a time in a folder, held by the operating system: the lock of a process that died is free."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from itda.data.drafts import refused
from itda.errors import OutputError

LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder that exists against every other process.

    Raises: OutputError if another process holds it, or it cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(
            f"Another process is writing {folder}. Wait until it has ended, or stop it; what it wrote so far is kept."
        ) from error
    except OSError as error:
        raise refused(folder, error) from error
    try:
        yield
    finally:
        lock.release()

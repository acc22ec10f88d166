"""Files and folders that appear under their name only when they are whole."""

import ctypes
import errno
import glob
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from itda.errors import OutputError

_DRAFT = "draft"


def is_draft(path: Path) -> bool:
    """Whether a file was to take the place of another, and has not."""
    return path.name.startswith(".") and path.name.endswith(f"-{_DRAFT}")


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A draft file, for what can only be written by name, that takes the place of `path` at the end or vanishes.

    Raises: OutputError for whatever the file system refuses.
    """
    draft = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{_DRAFT}")
    _remove_lost_drafts(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
        flush(path.parent)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A draft folder that takes the place of `folder` at the end, or vanishes if anything goes wrong.

    Raises: OutputError for whatever the file system refuses.
    """
    draft = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_lost_drafts(folder)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{_host()}-{os.getpid()}-", dir=folder.parent))
        draft.chmod(0o777 & ~_umask())
        yield draft
        flush(draft)
        _put_in_place(draft, folder)
        flush(folder.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise refused(folder, error) from error
    finally:
        if draft is not None and draft.exists():
            shutil.rmtree(draft, ignore_errors=True)


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename a draft to `folder`; what was there goes, and at no moment is there nothing."""
    if not folder.exists():
        draft.rename(folder)
        return
    if _exchange(draft, folder):
        return  # what was there is the draft now
    aside = draft.with_name(draft.name + ".old")
    folder.rename(aside)
    try:
        draft.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, where the system can; False if it cannot."""
    if sys.platform != "linux":
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of renameat2(2)
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # an old C library
        return False
    return bool(function(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _host() -> str:
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def _remove_lost_drafts(folder: Path) -> None:
    """Drafts of this folder whose process has died on this machine."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        host, _, rest = path.name.removeprefix(f".{folder.name}.").partition("-")
        process = rest.partition("-")[0]
        if host == _host() and process.isdigit() and not psutil.pid_exists(int(process)):
            with suppress(OSError):
                path.unlink() if is_draft(path) else shutil.rmtree(path)


def flush(folder: Path) -> None:
    """What a folder lists, on disk."""
    if os.name == "nt":  # Windows cannot flush a folder, and needs not
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refused(path: Path, error: OSError) -> OutputError:
    """What to tell a user whose file system would not write there."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return OutputError(
            f"No space is left on the disk of {path}. What was written before is whole; free some space and run again."
        )
    return OutputError(f"{path} cannot be written: {error.strerror or error}. Choose another folder.")

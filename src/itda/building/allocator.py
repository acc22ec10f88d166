"""What the C library keeps of memory that nobody uses any more."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc; others have none, and need none


def tidy() -> None:
    """Give back to the system what is free.

    A build allocates a few megabytes for every block of rows, and keeps a few bytes of it for every atom. glibc fills
    the gap of a block with such a few bytes, so that the next block no longer fits there: after three million rows of
    768 numbers the gaps of 4,096 atoms were 7 GB. They are whole pages, though, which this gives back.
    """
    trim = _trim()
    if trim is not None:
        trim(0)

"""How much memory a dictionary may take for its Gram matrix, and what is kept within that."""

import math
import re
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from itda.errors import OptionError
from itda.options import is_whole

Kind = Literal["float32", "int16", "rows", "none"]

_SHARE_OF_FREE = 0.5
_UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_FEWEST_ROWS = 64  # Gram rows kept, under which nearly every step would compute its own


def parse(memory: Any, device: torch.device) -> int:
    """Bytes of a budget: a number, text as "2GiB" or "500 MB", or None for half of what is free on the device.

    Raises: OptionError.
    """
    if memory is None:
        return int(_SHARE_OF_FREE * free(device))
    if is_whole(memory) and memory >= 0:
        return int(memory)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(memory).lower())
    if match is None or isinstance(memory, bool | float):
        raise OptionError(f"memory must be bytes, or text such as '2GiB' or '500MB'. Got {memory!r} instead.")
    amount, unit, binary = match.groups()
    if binary and unit not in _BINARY_UNITS:
        raise OptionError(f"memory must be bytes, or text such as '2GiB' or '500MB'. Got {memory!r} instead.")
    return int(float(amount) * (_BINARY_UNITS[unit] if binary else _UNITS[unit]))


def free(device: torch.device) -> int:
    """Bytes that can still be had on a device; in a container, what its limit leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = int(psutil.virtual_memory().available)
    limit, used = (_control_group(f"memory.{name}") for name in ("max", "current"))
    return available if limit is None or used is None else max(0, min(available, limit - used))


def _control_group(name: str) -> int | None:
    try:
        return int((Path("/sys/fs/cgroup") / name).read_text())
    except (OSError, ValueError):  # no control groups of version 2 here, or "max"
        return None


def most_atoms(budget: int) -> int:
    """Atoms whose whole matrix fits into `budget` bytes in 16 bits."""
    return math.isqrt(budget // 2)


def kind_of_gram(size: int, budget: int, device: torch.device) -> tuple[Kind, int]:
    """What of the Gram matrix of `size` atoms fits into `budget` bytes, and how many of its rows.

    On a CPU the whole matrix is always kept in 16 bits: a pursuit is bound by reading it, and looks again in
    float32 at what the rounding leaves open.
    """
    if device.type != "cpu" and 4 * size * size <= budget:
        return "float32", size
    if 2 * size * size <= budget:
        return "int16", size
    rows = budget // (2 * size)
    return ("rows", rows) if rows >= _FEWEST_ROWS else ("none", 0)

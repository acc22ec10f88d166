"""What a worker runs on, as rates: measured here, or from a data sheet."""

import time
from dataclasses import dataclass, replace

import psutil
import torch

from itda.errors import OptionError

_TRIED = 1024
_REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What one worker has."""

    name: str
    measured: bool
    """Whether the rates were measured; those of others come from data sheets and are guesses."""
    forward: float
    """Floating-point operations a second of a model's large products."""
    product: float
    """The same of float32 products on its processors, where dictionaries are built."""
    disk: float
    """Bytes a second, read or written."""
    network: float
    """Bytes a second to and from storage that workers share."""
    memory: float
    """Bytes for weights: of the GPUs, if it has any."""
    threads: int


# Half of the data sheet's dense bfloat16 rate for large products; eight GPUs hold a model, and one works at a time
MACHINES = {
    "a100x8": Machine(
        name="a100x8", measured=False, forward=1.56e14, product=2e12, disk=2e9, network=1e9, memory=8 * 80e9, threads=64
    ),
    "h100x8": Machine(
        name="h100x8", measured=False, forward=4.9e14, product=3e12, disk=3e9, network=3e9, memory=8 * 80e9, threads=96
    ),
    "h200x8": Machine(
        name="h200x8", measured=False, forward=4.9e14, product=3e12, disk=3e9, network=3e9, memory=8 * 141e9, threads=96
    ),
}


def this_machine(threads: int | None = None) -> Machine:
    """What this machine has, measured in a second.

    Args:
        threads: of a worker; all by default.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        rate = _products_a_second()
    finally:
        torch.set_num_threads(before)
    memory = psutil.virtual_memory().available
    return Machine(
        name="this machine", measured=True, forward=rate, product=rate, disk=1e9, network=1e9, memory=memory,
        threads=threads or before,
    )  # fmt: skip


def machine(name: str, *, threads: int | None = None) -> Machine:
    """The machine of that name.

    Raises: OptionError for one that is not known.
    """
    if name == "here":
        return this_machine(threads)
    if name not in MACHINES:
        raise OptionError(f"There is no machine {name!r}; there are here, {', '.join(MACHINES)}.")
    found = MACHINES[name]
    return replace(found, threads=threads or found.threads)


def _products_a_second() -> float:
    one, other = torch.randn(_TRIED, _TRIED), torch.randn(_TRIED, _TRIED)
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        torch.mm(one, other)
        best = min(best, time.perf_counter() - started)
    return 2 * _TRIED**3 / best

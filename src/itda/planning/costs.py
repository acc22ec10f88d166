"""Costs of the steps, as sums of what was counted times what was measured (docs/scaling.md).

The constants are those of one core of a Xeon with matrix units, found by benchmarks/bench_plan.py. Products take what
they take on the machine that is planned for; the rest is scaled by nothing.
"""

import math
from dataclasses import dataclass

from itda.building.options import BudgetOptions
from itda.planning.machines import Machine

CALIBRATION = 4  # passes that find out what a sink is
_BLOCK, _TOGETHER, _SAMPLE = 8, 1024, 8192  # of a greedy build: rows looked at, multiplied together, kept
_PASSES, _ROUNDS, _MORE = 3, 3, 1.15  # of the budget builder: over its pool, of exchange, atoms in one in those wanted
_LEARNT, _UPDATES = 4096, 16  # rows between two updates of its atoms, or so many updates in a pass
_LOOKED_AT, _CANDIDATES = 16_384, 8192  # at least, in an exchange
_TRIED, _TRIES = 4096, 5  # rows, and how often, by which the threshold of codes is found


@dataclass(frozen=True)
class Constants:
    """Seconds of one of each."""

    token: float = 2.5e-6
    """Read and cut into tokens, and the same again for one that gives a row: its source is written down."""
    byte: float = 5e-9
    """Of a text that is looked through for documents of a part."""
    number: float = 3e-8
    """Of an activation, on its way through a builder."""
    call: float = 1.25e-3
    """A look at one block of rows, for one atom."""
    step: float = 3.1e-10
    """One pursuit step of one row, for each atom there is; one thread."""
    change: float = 2.6e-11
    """The same for each step before it, since least squares changes its coefficient too; one thread."""
    solve: float = 7.4e-10
    """Least squares of one row's coefficients, for each pair of its steps and each step; one thread."""
    move: float = 3.4e-9
    """Of an activation of the pool, for each time and step in which it moves an atom."""
    product: float = 1.41
    """Each second that the largest products would take, in the sizes that occur."""
    start: float = 5.0
    """A process that loads its libraries and kernels."""
    workers: float = 14.0
    """Ray, and the same once more in every worker, all at once."""
    disk: float = 1.0
    """To look through the weights of a model on disk."""
    record: float = 0.01
    """Hidden states of one forward pass, read, and written so that a loss of power spares them; besides their bytes."""


CONSTANTS = Constants()


def windows(rows: float, text: float, window: int, document: float) -> float:
    """Windows that are read for so many rows of a text: every document gives its share.

    Args:
        rows: that are wanted.
        text: tokens that there are.
        window: tokens of a window.
        document: tokens of a document, in the mean.
    """
    documents = min(rows, text / document)
    return documents * math.ceil(min(document, rows / documents) / window)


def pool_rows(rows: float, atoms: int) -> float:
    """Rows that a build of the default method keeps and goes through again."""
    return min(rows, BudgetOptions(atoms=atoms).rows_kept)


def build_terms(rows: int, width: int, atoms: int, steps: int, machine: Machine) -> dict[str, float]:
    """What is counted for a build by the default method, by the constant it is counted in; `product` in seconds."""
    pool = int(pool_rows(rows, atoms))
    looked_at, candidates = min(pool, max(_LOOKED_AT, 4 * atoms)), min(pool, max(_CANDIDATES, atoms))
    block = max(2 * atoms, min(_LEARNT, pool // _UPDATES))
    learned = pursuit_terms(block, width, atoms, steps, machine)
    more = int(_MORE * atoms)
    parts: list[tuple[float, dict[str, float]]] = [
        (1.0, {"number": rows * width}),
        (1.0, _start_terms(pool, width, atoms, steps, machine)),
        (_PASSES * pool / block, learned),
        (1.0, {"move": _PASSES * pool * width * steps, "product": 2 * pool * width * atoms / machine.product}),
        (_ROUNDS, pursuit_terms(looked_at, width, atoms, steps, machine)),
        (_ROUNDS, pursuit_terms(2 * looked_at, width, more, steps, machine)),
        (_ROUNDS, {"product": 2 * looked_at * width * (candidates + atoms) / machine.product}),
        (1.0, pursuit_terms(min(rows, _SAMPLE), width, atoms, steps, machine)),
        (1.0, threshold_terms(rows, width, atoms, steps, machine)),
    ]
    found: dict[str, float] = {}
    for times, terms in parts:
        for name, count in terms.items():
            found[name] = found.get(name, 0.0) + times * count
    return found


def _start_terms(rows: int, width: int, atoms: int, steps: int, machine: Machine) -> dict[str, float]:
    """The same for the greedy choice of atoms that learning begins with."""
    mean = atoms / 2  # while it grows
    looked_at = min(atoms, rows / _BLOCK) if atoms <= rows / _BLOCK else atoms + rows / _BLOCK
    multiplied = min(rows, _TOGETHER * atoms)
    return {
        "call": looked_at,
        "step": looked_at * _BLOCK * steps * mean,
        "product": 2 * width * mean * multiplied / machine.product,
    }


def pursuit_terms(rows: int, width: int, atoms: int, steps: int, machine: Machine) -> dict[str, float]:
    """The same for codes of many rows at once."""
    return {
        "step": rows * steps * atoms / machine.threads,
        "change": rows * steps**2 * atoms / machine.threads,
        "solve": rows * steps**3 / machine.threads,
        "product": (2 * rows * width * atoms + 2 * atoms * atoms * width) / machine.product,
    }


def threshold_terms(rows: int, width: int, atoms: int, steps: int, machine: Machine) -> dict[str, float]:
    """The same for the threshold at which codes end."""
    return pursuit_terms(_TRIES * min(rows, _TRIED), width, atoms, steps, machine)


def seconds(terms: dict[str, float], constants: Constants = CONSTANTS) -> float:
    """What the terms come to."""
    return sum(count * float(getattr(constants, name)) for name, count in terms.items())

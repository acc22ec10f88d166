"""A plain transcription of the paper's rule, to be compared with."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


def pursuit(x: Rows, atoms: Rows, steps: int) -> Rows:
    """The reconstruction of one row by plain matching pursuit."""
    residual, rebuilt = x.copy(), np.zeros_like(x)
    for _ in range(steps):
        correlations = atoms @ residual
        best = np.argmax(np.abs(correlations))
        rebuilt += correlations[best] * atoms[best]
        residual -= correlations[best] * atoms[best]
    return rebuilt


def paper_atoms(rows: Rows, size: int, steps: int, block: int, tau: float) -> list[int]:
    """Indices of the rows that become atoms, in order."""
    width = rows.shape[1]
    atoms: list[int] = []

    def matrix() -> Rows:
        return rows[atoms] / np.linalg.norm(rows[atoms], axis=1, keepdims=True)

    for start in range(0, len(rows), block):
        here = range(start, min(start + block, len(rows)))
        if len(atoms) < width:
            frequency = Counter(rows[i].tobytes() for i in here)
            first = {}
            for i in here:
                first.setdefault(rows[i].tobytes(), i)
            ranked = sorted(first.values(), key=lambda i: (-frequency[rows[i].tobytes()], i))
            atoms += ranked[: width - len(atoms)]
        now = matrix()
        added = []
        for i in here:
            x = rows[i]
            rebuilt = pursuit(x, now, steps)
            error = np.mean((x / np.linalg.norm(x) - rebuilt / np.linalg.norm(rebuilt)) ** 2)
            if error > tau:
                added.append(i)
        atoms += added
    return atoms[:size]

"""The plain definitions, row by row in float64: slow, short, and the oracle of every test.

Each function takes one activation and all atoms and returns what it chose. Nothing here is fast on
purpose; every other backend must agree with it.
"""

import numpy as np
from numpy.typing import NDArray

from itda.pursuit.codes import Coding

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Code = dict[int, float]  # atom -> coefficient, in order of first choice

# A residual this small against its row is rounding, and the atom it points to is noise.
NEGLIGIBLE = 1e-12


def matching_pursuit(x: Vector, atoms: Matrix, steps: int) -> Code:
    """Plain signed matching pursuit: an atom may be chosen again, its coefficients add up.

    Source: Mallat & Zhang 1993; the pursuit of Leask et al. 2025.
    """
    residual = x.copy()
    code: Code = {}
    for _ in range(steps):
        correlations = atoms @ residual
        chosen = int(np.argmax(np.abs(correlations)))
        if _is_negligible(correlations[chosen], x):
            break
        code[chosen] = code.get(chosen, 0.0) + float(correlations[chosen])
        residual -= correlations[chosen] * atoms[chosen]
    return code


def orthogonal_matching_pursuit(x: Vector, atoms: Matrix, steps: int) -> Code:
    """After each choice all coefficients are fitted again, so that no atom is chosen twice.

    Source: Pati, Rezaiifar & Krishnaprasad 1993.
    """
    code: Code = {}
    residual = x
    for _ in range(min(steps, len(atoms))):
        correlations = atoms @ residual
        correlations[list(code)] = 0.0
        chosen = int(np.argmax(np.abs(correlations)))
        if _is_negligible(correlations[chosen], x):
            break
        code = refit(x, atoms, {**code, chosen: 0.0})
        residual = x - rebuild(code, atoms)
    return code


def refit(x: Vector, atoms: Matrix, code: Code) -> Code:
    """The least-squares coefficients on the atoms of `code`; the smallest ones where several fit."""
    if not code:
        return code
    support = list(code)
    solution = np.linalg.lstsq(atoms[support].T, x, rcond=1e-9)[0]
    return dict(zip(support, solution.tolist(), strict=True))


def rebuild(code: Code, atoms: Matrix) -> Vector:
    """The activation that a code stands for."""
    rebuilt = np.zeros(atoms.shape[1])
    for atom, coefficient in code.items():
        rebuilt += coefficient * atoms[atom]
    return rebuilt


def unexplained_share(x: Vector, rebuilt: Vector) -> float:
    """||x - x^||^2 / ||x||^2 of a centred row; 0 for a row of zeros."""
    energy = float(x @ x)
    return float(np.sum((x - rebuilt) ** 2)) / energy if energy else 0.0


def pursue(
    rows: Matrix, atoms: Matrix, coding: Coding
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Codes of all rows: atoms (N, K), coefficients (N, K), unexplained (N,)."""
    chosen = np.full((len(rows), coding.steps), -1, np.int32)
    coefficients = np.zeros((len(rows), coding.steps), np.float32)
    unexplained = np.zeros(len(rows), np.float32)
    search = matching_pursuit if coding.method == "mp" else orthogonal_matching_pursuit
    for row, x in enumerate(rows):
        code = search(x, atoms, coding.steps)
        if coding.refit:
            code = refit(x, atoms, code)
        chosen[row, : len(code)] = list(code)
        coefficients[row, : len(code)] = list(code.values())
        unexplained[row] = unexplained_share(x, rebuild(code, atoms))
    return chosen, coefficients, unexplained


def _is_negligible(correlation: float, x: Vector) -> bool:
    return bool(abs(correlation) <= NEGLIGIBLE * np.sqrt(x @ x))

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


def pursue_row(x: Vector, atoms: Matrix, coding: Coding, stop: float | None = None) -> Code:
    """One code: choose the atom that is most correlated with the residual, find coefficients, and so on, until the
    unexplained share is `stop` or less.

    Plain pursuit (`mp`) adds the correlation to the chosen atom's coefficient; an atom may be chosen
    again. The orthogonal one (`omp`) fits all coefficients again after each choice, so no atom is chosen
    twice. Gradient pursuit (`gp`) takes one step of steepest descent over the chosen atoms.

    Sources: Mallat & Zhang 1993 (mp); Pati, Rezaiifar & Krishnaprasad 1993 (omp); Blumensath & Davies 2008
    (gp); Bruckstein, Elad & Zibulevsky 2008 (non-negative omp).
    """
    code: Code = {}
    residual = x.copy()
    for _ in range(coding.steps):
        if stop is not None and unexplained_share(x, x - residual) <= stop:
            break
        correlations = atoms @ residual
        if coding.method == "omp":
            correlations[list(code)] = 0.0
        chosen = int(np.argmax(correlations if coding.nonnegative else np.abs(correlations)))
        size = correlations[chosen] if coding.nonnegative else abs(correlations[chosen])
        if size <= NEGLIGIBLE * np.sqrt(x @ x):
            break
        code.setdefault(chosen, 0.0)
        if coding.method == "mp":
            code[chosen] += float(correlations[chosen])
        elif coding.method == "gp":
            code = gradient_step(x, atoms, code, nonnegative=coding.nonnegative)
        else:
            code = refit(x, atoms, code, nonnegative=coding.nonnegative)
        residual = x - rebuild(code, atoms)
    if coding.refit and code:
        code = refit(x, atoms, code, nonnegative=coding.nonnegative)
    return {atom: value for atom, value in code.items() if value > 0} if coding.nonnegative else code


def refit(x: Vector, atoms: Matrix, code: Code, *, nonnegative: bool = False) -> Code:
    """The least-squares coefficients on the atoms of `code`; the smallest ones where several fit."""
    support = list(code)
    basis = atoms[support].T
    if nonnegative:
        solution = nonnegative_least_squares(basis, x).tolist()
    else:
        solution = np.linalg.lstsq(basis, x, rcond=1e-9)[0].tolist()
    return dict(zip(support, solution, strict=True))


def nonnegative_least_squares(basis: Matrix, x: Vector) -> Vector:
    """min ||x - basis c|| over c >= 0.

    Source: Lawson & Hanson 1974, chapter 23.
    """
    solution: Vector = np.zeros(basis.shape[1])
    free = np.zeros(basis.shape[1], bool)
    for _ in range(3 * len(solution)):
        gradient = basis.T @ (x - basis @ solution)
        gradient[free] = 0.0
        if gradient.max() <= NEGLIGIBLE * np.sqrt(x @ x):
            break
        free[np.argmax(gradient)] = True
        while free.any():
            wanted = np.zeros_like(solution)
            wanted[free] = np.linalg.lstsq(basis[:, free], x, rcond=1e-9)[0]
            blocked = free & (wanted <= 0)
            if not blocked.any():
                solution = wanted
                break
            share = float(np.min(solution[blocked] / (solution[blocked] - wanted[blocked])))
            solution = solution + share * (wanted - solution)
            free &= solution > NEGLIGIBLE * np.abs(solution).max()
            solution[~free] = 0.0
    return solution


def gradient_step(x: Vector, atoms: Matrix, code: Code, *, nonnegative: bool = False) -> Code:
    """The code after one step of steepest descent, as long as is best or, non-negative, as stays feasible."""
    support = list(code)
    basis, values = atoms[support].T, np.array(list(code.values()))
    gradient = basis.T @ (x - basis @ values)
    if nonnegative:
        gradient[(values <= 0) & (gradient < 0)] = 0.0
    direction = basis @ gradient
    curvature = float(direction @ direction)
    if curvature == 0:
        return code
    length = float(gradient @ gradient) / curvature
    down = gradient < 0
    if nonnegative and down.any():
        length = min(length, float(np.min(values[down] / -gradient[down])))
    values = values + length * gradient
    return dict(zip(support, (np.maximum(values, 0) if nonnegative else values).tolist(), strict=True))


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


def cosine(x: Vector, rebuilt: Vector) -> float:
    """Cosine of a row and its reconstruction; 0 where either is zero."""
    lengths = float(np.sqrt(x @ x) * np.sqrt(rebuilt @ rebuilt))
    return float(x @ rebuilt) / lengths if lengths else 0.0


def pursue(
    rows: Matrix, atoms: Matrix, coding: Coding, stops: Vector | None = None
) -> tuple[NDArray[np.int32], Matrix, Vector, Vector]:
    """Codes of all rows: atoms (N, K), coefficients (N, K), unexplained share (N,), cosine (N,).

    `stops` (N,) are the unexplained shares at which rows are done.
    """
    chosen = np.full((len(rows), coding.steps), -1, np.int32)
    coefficients = np.zeros((len(rows), coding.steps))
    unexplained, cosines = np.zeros(len(rows)), np.zeros(len(rows))
    for row, x in enumerate(rows):
        code = pursue_row(x, atoms, coding, None if stops is None else float(stops[row]))
        chosen[row, : len(code)] = list(code)
        coefficients[row, : len(code)] = list(code.values())
        rebuilt = rebuild(code, atoms)
        unexplained[row], cosines[row] = unexplained_share(x, rebuilt), cosine(x, rebuilt)
    return chosen, coefficients, unexplained, cosines

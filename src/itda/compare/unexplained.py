"""How much of activations something else leaves unexplained."""

from torch import Tensor


def energy(rows: Tensor) -> float:
    """Sum of squares."""
    return float(rows.double().square().sum())


def fvu(rows: Tensor, rebuilt: Tensor) -> float:
    """sum ||x - x^||^2 / sum ||x - mean of these rows||^2, of rows (n, D) and what stands for them."""
    return energy(rows - rebuilt) / energy(rows - rows.mean(0))

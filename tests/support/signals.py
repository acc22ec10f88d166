"""Planted sparse signals: rows whose code is known."""

import torch
from torch import Tensor


def unit(rows: Tensor) -> Tensor:
    """Rows of norm 1."""
    return torch.nn.functional.normalize(rows, dim=1)


def planted(rows: int, width: int, atoms: int, active: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (N, D) that are sums of `active` nearly orthogonal atoms; the atoms (A, D) and who is active (N, active)."""
    generator = torch.Generator().manual_seed(seed)
    dictionary = unit(torch.randn(atoms, width, generator=generator))
    chosen = torch.stack([torch.randperm(atoms, generator=generator)[:active] for _ in range(rows)])
    sign = torch.randint(0, 2, (rows, active), generator=generator) * 2 - 1
    # Well separated sizes: the order of choice is then known too
    size = 2.0 ** -torch.arange(active) * sign
    return (size[:, :, None] * dictionary[chosen]).sum(1), dictionary, chosen


def coherent(rows: int, width: int, atoms: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows and unit atoms that share a strong low-rank part, as activations do."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(max(1, width // 8), width, generator=generator)

    def draw(count: int) -> Tensor:
        common = torch.randn(count, len(base), generator=generator) @ base
        return common + 0.3 * torch.randn(count, width, generator=generator)

    return draw(rows), unit(draw(atoms))


def adversarial(rows: int, width: int, atoms: int, kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """Rows and unit atoms with what makes a pursuit go wrong: ties, copies, rows of zeros, rows that are atoms."""
    x, dictionary = coherent(rows, width, atoms, seed)
    generator = torch.Generator().manual_seed(seed)
    if kind == "random":
        dictionary = unit(torch.randn(atoms, width, generator=generator))
    if kind == "duplicated":
        dictionary = dictionary[torch.arange(atoms) // 2]
    if kind == "nearly duplicated":
        dictionary = unit(dictionary[torch.arange(atoms) // 3] + 1e-4 * torch.randn(atoms, width, generator=generator))
    if kind == "zero rows":
        x[::2] = 0
    if kind == "atoms as rows":
        x = 3 * dictionary[torch.arange(rows) % atoms]
    return x, dictionary

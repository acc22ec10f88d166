"""The plain methods that the pursuit is measured against: correlations anew at every step, codes of N x A."""

from collections import Counter

import torch
from torch import Tensor


def pursuit(rows: Tensor, atoms: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Matching pursuit as public code has it; the codes (N, A) and the reconstructions (N, D)."""
    codes = torch.zeros(len(rows), len(atoms), device=rows.device)
    residual = rows.clone()
    everyone = torch.arange(len(rows), device=rows.device)
    for _ in range(steps):
        correlations = residual @ atoms.T
        best = correlations.abs().argmax(1)
        value = correlations[everyone, best]
        codes[everyone, best] += value
        residual = residual - value[:, None] * atoms[best]
    return codes, codes @ atoms


def paper_atoms(rows: Tensor, size: int, steps: int, block: int, max_cosine_gap: float) -> Tensor:
    """The atoms that the paper's rule takes from the rows, as a plain transcription of it finds them."""
    atoms = torch.empty((0, rows.shape[1]))
    for start in range(0, len(rows), block):
        unit = torch.nn.functional.normalize(rows[start : start + block], dim=1)
        if len(atoms) < rows.shape[1]:
            contents = [row.tobytes() for row in rows[start : start + block].numpy()]
            first = {content: place for place, content in reversed(list(enumerate(contents)))}
            frequency = Counter(contents)
            order = sorted(first.values(), key=lambda place: (-frequency[contents[place]], place))
            atoms = torch.cat([atoms, unit[order[: rows.shape[1] - len(atoms)]]])
        rebuilt = pursuit(unit, atoms, steps)[1]
        gap = 1 - torch.nn.functional.cosine_similarity(unit, rebuilt, dim=1)
        atoms = torch.cat([atoms, unit[gap > max_cosine_gap]])
        if len(atoms) >= size:
            break
    return atoms[:size]

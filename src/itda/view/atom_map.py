"""A map of atoms: two dimensions in which atoms that point alike lie together."""

import torch
from torch import Tensor

_LARGEST = 50_000  # atoms for which neighbours are worth their time
_DIRECTIONS = 50  # principal directions that are kept before
_NEIGHBOURS = 30.0
_SMALL = 4096  # atoms up to which one thread is as fast
METHOD = "t-SNE of the atoms' first 50 principal directions"
PLAIN = "the atoms' first two principal directions"


def atom_map(atoms: Tensor, seed: int = 0) -> tuple[Tensor, str]:
    """Where each of A unit atoms lies, float32 (A, 2) in -1 to 1, and how that was found.

    Source: van der Maaten & Hinton 2008, from principal components as a start, which keeps the large picture (Kobak &
    Berens 2019).
    """
    centred = atoms.float() - atoms.float().mean(0)
    width = min(_DIRECTIONS, *centred.shape)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    order = torch.argsort(values, descending=True)[:width]
    directions = vectors[:, order]
    # The sign of a direction is arbitrary; the largest entry is made positive, so that maps are the same everywhere
    directions *= torch.sign(directions.gather(0, directions.abs().argmax(0, keepdim=True)))
    reduced = centred @ directions
    if not 4 < len(atoms) <= _LARGEST or width < 2:
        flat = torch.zeros(len(atoms), 2)
        flat[:, : min(2, width)] = reduced[:, :2]
        return _fitted(flat), PLAIN
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = reduced[:, :2] / reduced[:, 0].std().clamp_min(1e-12) * 1e-4
    perplexity = min(_NEIGHBOURS, (len(atoms) - 1) / 3)
    # Its threads wait for each other at every one of a thousand small steps, on a busy machine a hundred times as long
    with threadpool_limits(None if len(atoms) > _SMALL else 1):
        found = TSNE(perplexity=perplexity, init=start.numpy(), random_state=seed).fit_transform(reduced.numpy())
    return _fitted(torch.from_numpy(found).float()), METHOD


def _fitted(places: Tensor) -> Tensor:
    low, high = places.min(0).values, places.max(0).values
    return (places - (low + high) / 2) / ((high - low).max() / 2).clamp_min(1e-12)

"""Atoms whose use differs between two models: chosen on some documents, tested on others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itda.pursuit import Codes

Floats = NDArray[np.float64]

_CAP = 3.0  # times the median size of an atom's coefficients: no token counts for more
_FLIPS = 4999
_CHOSEN_FROM = 2.0  # t on the first half, below which an atom is not tested
_DRAWN = 10  # usual tokens by which the mean distance of a rare atom is drawn to the usual one
_DOCUMENTS_AT_ONCE = 256
_PIECE = 512  # permutations


class Half(NamedTuple):
    """Some documents, read by both models: n rows that both have."""

    first: Codes
    second: Codes
    documents: Tensor
    """int64 (n,), ascending: the number of the document of each row."""
    distance: Tensor
    """float64 (n,): how far apart the two activations of each row are."""


class Both(NamedTuple):
    """Something of the first model and of the second."""

    first: Tensor
    second: Tensor


@dataclass(frozen=True, eq=False)
class Changes:
    """Of each of A atoms, how its use differs, and what says so."""

    frequency: Both
    """Share of tokens whose code has it, float64 (A,)."""
    size: Both
    """Mean size of its coefficient where it is used, none counted as more than three medians; 0 if it never is."""
    more: Tensor
    """bool (A,): the second model uses it more."""
    distance: Tensor
    """float64 (A,): mean distance of the two models' activations at tokens that use it, in usual distances; of a rare
    atom, drawn to 1 as by ten usual tokens."""
    chosen: Tensor
    """bool (A,): both differ on the first half by more than is allowed, so both were tested on the second."""
    p: Tensor
    """float64 (A,): the larger of those of use and of distance, on the second half. NaN if not chosen."""
    q: Tensor
    """The same, adjusted for how many were tested (Benjamini & Hochberg). NaN if not chosen."""

    def significant(self, rate: float) -> Tensor:
        """bool (A,): changed, with at most this share of false ones among them."""
        return self.chosen & (self.q <= rate)

    def order(self, rate: float) -> Tensor:
        """int64 (A,): all atoms, changed ones first, by how far the models are apart where they are used."""
        changed = self.significant(rate)
        order = torch.argsort(self.distance, descending=True, stable=True)
        return torch.cat([order[changed[order]], order[~changed[order]]])


def changes(chosen_on: Half, tested_on: Half, atoms: int, *, margin: float, apart: float, seed: int) -> Changes:
    """Compare how two models use atoms.

    Use of an atom in a document is the sum of the sizes of its coefficients, a token's being at most three of the
    atom's medians: sinks and outliers cannot make a difference by themselves. That of one model must be above
    (1 + margin) times that of the other. That alone says little: of two atoms that are nearly the same, one from each
    model, each model uses its own. So activations at the tokens that use the atom must also be more than `apart` times
    as far from each other as usual. Both are tested by changing signs at random, document by document, and the larger
    p counts: an atom has changed if both are so.

    Args:
        chosen_on: one half of the documents.
        tested_on: the other half.
        atoms: A.
        margin: of use, as a share.
        apart: of distance, in usual ones: the mean over all tokens of the first half.
        seed: of the flips.
    """
    caps = _CAP * _medians([codes for half in (chosen_on, tested_on) for codes in (half.first, half.second)], atoms)
    usual = float(chosen_on.distance.mean())

    def differences(half: Half) -> Iterator[tuple[Floats, Floats, Floats]]:
        """For documents in pieces, (documents, atoms): how much more than is allowed the second model uses each atom,
        how much more the first does, and how much farther they are from each other."""
        for first, second, far in _by_document(half, caps, apart * usual):
            yield second - (1 + margin) * first, first - (1 + margin) * second, far

    more, less, far = _t(differences(chosen_on), atoms)
    up = more >= less
    tested = np.flatnonzero((np.maximum(more, less) >= _CHOSEN_FROM) & (far >= _CHOSEN_FROM))
    there = [
        (np.where(up[tested], more[:, tested], less[:, tested]), far[:, tested])
        for more, less, far in differences(tested_on)
    ]
    p = np.full(atoms, np.nan)
    generator = np.random.default_rng(seed)
    p[tested] = np.maximum(*(_flipped(np.concatenate(parts), generator) for parts in zip(*there, strict=True)))
    q = np.full(atoms, np.nan)
    if len(tested):
        from scipy.stats import false_discovery_control

        q[tested] = false_discovery_control(p[tested])
    chosen = torch.zeros(atoms, dtype=torch.bool)
    chosen[tested] = True
    codes = [
        Codes.concatenate([chosen_on.first, tested_on.first]),
        Codes.concatenate([chosen_on.second, tested_on.second]),
    ]
    return Changes(
        frequency=Both(*(one.usage(atoms).double() / max(1, len(one)) for one in codes)),
        size=Both(*(_sizes(one, caps) for one in codes)),
        more=torch.from_numpy(up),
        distance=_mean_distance((chosen_on, tested_on), atoms, usual),
        chosen=chosen,
        p=torch.from_numpy(p),
        q=torch.from_numpy(q),
    )


def _medians(several: list[Codes], atoms: int) -> Tensor:
    """Of the sizes of each atom's coefficients, float64 (A,); infinity for one that is never used."""
    used = [codes.atoms >= 0 for codes in several]
    which = torch.cat([codes.atoms[there].long() for codes, there in zip(several, used, strict=True)])
    sizes = torch.cat([codes.coefficients[there].abs() for codes, there in zip(several, used, strict=True)])
    order = torch.argsort(sizes)
    order = order[torch.argsort(which[order], stable=True)]
    counts = torch.bincount(which, minlength=atoms)
    middle = counts.cumsum(0) - counts + counts // 2
    found = torch.full((atoms,), float("inf"), dtype=torch.float64)
    there = counts > 0
    found[there] = sizes[order][middle[there]].double()
    return found


def _sizes(codes: Codes, caps: Tensor) -> Tensor:
    used = codes.atoms >= 0
    which = codes.atoms[used].long()
    sums = torch.zeros(len(caps), dtype=torch.float64)
    sums.index_add_(0, which, torch.minimum(codes.coefficients[used].abs().double(), caps[which]))
    return sums / codes.usage(len(caps)).clamp_min(1)


def _by_document(half: Half, caps: Tensor, allowed: float) -> Iterator[tuple[Floats, Floats, Floats]]:
    """For documents in pieces, (documents, atoms), per token of the document: use of each atom by both models, and by
    how much tokens that use it are farther apart than is allowed."""
    last = int(half.documents[-1]) + 1
    for start in range(0, last, _DOCUMENTS_AT_ONCE):
        count = min(_DOCUMENTS_AT_ONCE, last - start)
        begin, end = torch.searchsorted(half.documents, torch.tensor([start, start + count])).tolist()
        documents = half.documents[begin:end] - start
        beyond = half.distance[begin:end] - allowed
        tables = torch.zeros((3, count * len(caps)), dtype=torch.float64)
        for row, codes in enumerate((half.first[begin:end], half.second[begin:end])):
            used = codes.atoms >= 0
            which = codes.atoms[used].long()
            cell = (documents[:, None] * len(caps)).expand_as(used)[used] + which
            tables[row].index_add_(0, cell, torch.minimum(codes.coefficients[used].abs().double(), caps[which]))
            tables[2].index_add_(0, cell, beyond[:, None].expand_as(used)[used])
        tokens = torch.bincount(documents, minlength=count).clamp_min(1)
        first, second, far = (tables.reshape(3, count, -1) / tokens[:, None]).numpy()
        yield first, second, far


def _mean_distance(halves: tuple[Half, Half], atoms: int, usual: float) -> Tensor:
    sums = torch.zeros((2, atoms), dtype=torch.float64)
    for half in halves:
        for codes in (half.first, half.second):
            used = codes.atoms >= 0
            which = codes.atoms[used].long()
            sums[0].index_add_(0, which, half.distance[:, None].expand_as(used)[used] / usual)
            sums[1].index_add_(0, which, torch.ones(len(which), dtype=torch.float64))
    return (sums[0] + _DRAWN) / (sums[1] + _DRAWN)


def _t(pieces: Iterator[tuple[Floats, Floats, Floats]], atoms: int) -> Floats:
    """Of the mean over documents of each of three questions, (3, atoms)."""
    sums, squares, count = np.zeros((3, atoms)), np.zeros((3, atoms)), 0
    for piece in pieces:
        found = np.stack(piece)
        sums, squares, count = sums + found.sum(1), squares + np.square(found).sum(1), count + found.shape[1]
    variance = np.maximum(squares - np.square(sums) / count, 0) * count / max(count - 1, 1)
    return np.divide(sums, np.sqrt(variance), out=np.zeros_like(sums), where=variance > 0)


def _flipped(differences: Floats, generator: np.random.Generator) -> Floats:
    """How often the sum of differences (documents, atoms) is as large with random signs, one-sided."""
    found, reached, left = differences.sum(0), np.ones(differences.shape[1]), _FLIPS
    tolerance = 1e-12 * np.abs(differences).sum(0)
    while left:
        signs = generator.integers(0, 2, (min(left, _PIECE), len(differences))).astype(np.float64) * 2 - 1
        reached += (signs @ differences >= found - tolerance).sum(0)
        left -= len(signs)
    return reached / (_FLIPS + 1)

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
_DOCUMENTS_AT_ONCE = 256
_PIECE = 512  # permutations


class Use(NamedTuple):
    """Codes of one model, of rows that both models have."""

    codes: Codes
    documents: Tensor
    """int64 (n,), ascending: the number of the document of each row, the same in both models."""


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
    chosen: Tensor
    """bool (A,): use differs on the first half by more than the margin, so it was tested on the second."""
    statistic: Tensor
    """float64 (A,): paired t over documents of how much more the second model uses it than the margin allows, or less
    (negative); of the second half for the chosen, of the first for all others."""
    p: Tensor
    """float64 (A,): of the second half, by exchanging the models' uses document by document. NaN if not chosen."""
    q: Tensor
    """The same, adjusted for how many were tested (Benjamini & Hochberg). NaN if not chosen."""

    @property
    def order(self) -> Tensor:
        """int64 (A,): all atoms, tested ones with the smallest q first, then by how large t is."""
        strength = self.statistic.abs()
        rank = torch.argsort(strength, descending=True, stable=True)
        q = torch.where(self.chosen, self.q, 2.0)[rank]
        return rank[torch.argsort(q, stable=True)]

    def significant(self, rate: float) -> Tensor:
        """bool (A,): changed, with at most this share of false ones among them."""
        return self.chosen & (self.q <= rate)


def changes(chosen_on: tuple[Use, Use], tested_on: tuple[Use, Use], atoms: int, *, margin: float, seed: int) -> Changes:
    """Compare how two models use atoms.

    Use of an atom in a document is the sum of the sizes of its coefficients, a token's being at most three of the
    atom's medians: sinks and outliers cannot make a difference by themselves. That of one model must be above
    (1 + margin) times that of the other: two models are never quite the same, and with enough text the least difference
    would show. The test flips at random, document by document, which model is which.

    Args:
        chosen_on: codes of the first and the second model on one half of the documents.
        tested_on: the same on the other half.
        atoms: A.
        margin: as a share.
        seed: of the flips.
    """
    caps = _CAP * _medians([one.codes for one in (*chosen_on, *tested_on)], atoms)
    more, less = _t(chosen_on, caps, margin), _t(_swapped(chosen_on), caps, margin)
    up = more >= less
    before = np.where(up, more, less)
    tested = np.flatnonzero(before >= _CHOSEN_FROM)
    statistic, p = before.copy(), np.full(atoms, np.nan)
    generator = np.random.default_rng(seed)
    for direction, both in ((True, tested_on), (False, _swapped(tested_on))):
        own = tested[up[tested] == direction]
        differences = np.concatenate(list(_differences(both, caps, margin, own)))
        p[own] = _flipped(differences, generator)
        statistic[own] = _t_of(differences.sum(0), np.square(differences).sum(0), len(differences))
    q = np.full(atoms, np.nan)
    if len(tested):
        from scipy.stats import false_discovery_control

        q[tested] = false_discovery_control(p[tested])
    codes = [Codes.concatenate([one.codes, other.codes]) for one, other in zip(chosen_on, tested_on, strict=True)]
    chosen = torch.zeros(atoms, dtype=torch.bool)
    chosen[tested] = True
    return Changes(
        frequency=Both(*(one.usage(atoms).double() / max(1, len(one)) for one in codes)),
        size=Both(*(_sizes(one, caps) for one in codes)),
        chosen=chosen,
        statistic=torch.from_numpy(np.where(up, statistic, -statistic)),
        p=torch.from_numpy(p),
        q=torch.from_numpy(q),
    )


def _swapped(both: tuple[Use, Use]) -> tuple[Use, Use]:
    return both[1], both[0]


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


def _differences(
    both: tuple[Use, Use], caps: Tensor, margin: float, only: NDArray[np.int64] | None = None
) -> Iterator[Floats]:
    """For documents in pieces, (documents, atoms): use by the second less (1 + margin) times that by the first."""
    last = int(both[0].documents[-1])
    for start in range(0, last + 1, _DOCUMENTS_AT_ONCE):
        count = min(_DOCUMENTS_AT_ONCE, last + 1 - start)
        first, second = (_by_document(use, caps, start, count) for use in both)
        yield (second - (1 + margin) * first).numpy()[:, slice(None) if only is None else only]


def _by_document(use: Use, caps: Tensor, start: int, count: int) -> Tensor:
    """Use of each atom in some documents, float64 (documents, A), per token of the document."""
    begin, end = torch.searchsorted(use.documents, torch.tensor([start, start + count])).tolist()
    codes, documents = use.codes[slice(begin, end)], use.documents[begin:end] - start
    used = codes.atoms >= 0
    which = codes.atoms[used].long()
    sizes = torch.minimum(codes.coefficients[used].abs().double(), caps[which])
    found = torch.zeros(count * len(caps), dtype=torch.float64)
    found.index_add_(0, (documents[:, None].expand_as(used)[used] * len(caps)) + which, sizes)
    tokens = torch.bincount(documents, minlength=count).clamp_min(1)
    return found.reshape(count, -1) / tokens[:, None]


def _t(both: tuple[Use, Use], caps: Tensor, margin: float) -> Floats:
    sums, squares, count = np.zeros(len(caps)), np.zeros(len(caps)), 0
    for part in _differences(both, caps, margin):
        sums, squares, count = sums + part.sum(0), squares + np.square(part).sum(0), count + len(part)
    return _t_of(sums, squares, count)


def _t_of(sums: Floats, squares: Floats, count: int) -> Floats:
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

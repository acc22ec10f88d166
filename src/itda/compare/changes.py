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
_FLIPS, _MOST_FLIPS = 4999, 99_999
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
    """Share of tokens of the second half whose code has it, float64 (A,)."""
    size: Both
    """Mean size of its coefficient where it is used there, none counted as more than three medians; 0 if it is not."""
    more: Tensor
    """bool (A,): the second model uses it more on the first half."""
    distance: Tensor
    """float64 (A,): mean distance of the two models' activations at tokens of the second half that use it, in usual
    distances; of a rare atom, drawn to 1 as by ten usual tokens."""
    chosen: Tensor
    """bool (A,): differs on the first half by more than is allowed, so it was tested on the second."""
    p: Tensor
    """float64 (A,): the larger of those of use and of distance, on the second half; 1 where use does not differ there
    by more than is allowed. NaN if not chosen."""
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


def changes(
    chosen_on: Half, tested_on: Half, atoms: int, *, margin: float, apart: float, rate: float, seed: int
) -> Changes:
    """Compare how two models use atoms.

    Use of an atom in a document is the sum of the sizes of its coefficients over its tokens, a token's being at most
    three of the atom's medians: sinks and outliers cannot make a difference by themselves. Two things are tested on the
    second half, and the larger p counts. Could the models be exchanged, document by document? The sum of the
    differences of use is set against sums with random signs. And are activations at the tokens that use the atom more
    than `apart` times as far from each other as usual? Of two atoms that are nearly the same, one from each model, each
    model uses its own, and nothing has changed. Again signs are drawn, of what is beyond that; distances are skewed to
    the right, which makes that cautious. And the change must be large: an atom whose use in one model is not above
    (1 + margin) times that in the other on the second half has p = 1. The same is asked of the first half, where atoms
    are chosen.

    Args:
        chosen_on: one half of the documents.
        tested_on: the other half.
        atoms: A.
        margin: of use, as a share.
        apart: of distance, in usual ones: the mean over all tokens of the first half.
        rate: of false discoveries, for which there must be draws enough.
        seed: of the signs.
    """
    caps = _CAP * _medians([codes for half in (chosen_on, tested_on) for codes in (half.first, half.second)], atoms)
    usual = float(chosen_on.distance.mean()) or 1.0
    first, second = (_Use(half, caps, apart * usual) for half in (chosen_on, tested_on))
    up = first.t[0] >= 0
    large = [used.larger(up) > (1 + margin) * used.smaller(up) for used in (first, second)]
    tested = np.flatnonzero((np.abs(first.t[0]) >= _CHOSEN_FROM) & (first.t[1] >= _CHOSEN_FROM) & large[0])
    p = np.full(atoms, np.nan)
    use, far = second.questions(tested)
    draws = min(max(_FLIPS, int(np.ceil(len(tested) / rate))), _MOST_FLIPS)
    generator = np.random.default_rng(seed)
    both = np.maximum(_flipped(use * np.where(up[tested], 1, -1), draws, generator), _flipped(far, draws, generator))
    p[tested] = np.where(large[1][tested], both, 1.0)
    q = np.full(atoms, np.nan)
    if len(tested):
        from scipy.stats import false_discovery_control

        q[tested] = false_discovery_control(p[tested])
    chosen = torch.zeros(atoms, dtype=torch.bool)
    chosen[tested] = True
    codes = (tested_on.first, tested_on.second)
    return Changes(
        frequency=Both(*(one.usage(atoms).double() / max(1, len(one)) for one in codes)),
        size=Both(*(_sizes(one, caps) for one in codes)),
        more=torch.from_numpy(up),
        distance=_mean_distance(tested_on, atoms, usual),
        chosen=chosen,
        p=torch.from_numpy(p),
        q=torch.from_numpy(q),
    )


class _Use:
    """How both models use atoms in the documents of one half, and how far apart they are there."""

    def __init__(self, half: Half, caps: Tensor, allowed: float) -> None:
        self._half, self._caps, self._allowed = half, caps, allowed
        self._sums = np.zeros((2, len(caps)))
        sums, squares, count = np.zeros((2, len(caps))), np.zeros((2, len(caps))), 0
        for first, second, far in _by_document(half, caps, allowed):
            self._sums += np.stack([first.sum(0), second.sum(0)])
            asked = np.stack([second - first, far])
            sums, squares, count = sums + asked.sum(1), squares + np.square(asked).sum(1), count + len(far)
        variance = np.maximum(squares - np.square(sums) / count, 0) * count / max(count - 1, 1)
        self.t: Floats = np.divide(sums, np.sqrt(variance), out=np.zeros_like(sums), where=variance > 0)
        """Of the mean over documents of the second model's use less the first's, and of distance beyond what is
        allowed, (2, A)."""

    def larger(self, up: NDArray[np.bool_]) -> Floats:
        """Use in the model that is said to have more."""
        found: Floats = np.where(up, self._sums[1], self._sums[0])
        return found

    def smaller(self, up: NDArray[np.bool_]) -> Floats:
        """Use in the other one."""
        return self.larger(~up)

    def questions(self, some: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """The two differences of some atoms, (documents, atoms) each."""
        pieces = [
            ((second - first)[:, some], far[:, some])
            for first, second, far in _by_document(self._half, self._caps, self._allowed)
        ]
        use, far = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        return use, far


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
    """For documents in pieces, (documents, A), per token of the document: use of each atom by both models, and by how
    much tokens that use it are farther apart than is allowed."""
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


def _mean_distance(half: Half, atoms: int, usual: float) -> Tensor:
    sums = torch.zeros((2, atoms), dtype=torch.float64)
    for codes in (half.first, half.second):
        used = codes.atoms >= 0
        which = codes.atoms[used].long()
        sums[0].index_add_(0, which, half.distance[:, None].expand_as(used)[used] / usual)
        sums[1].index_add_(0, which, torch.ones(len(which), dtype=torch.float64))
    return (sums[0] + _DRAWN) / (sums[1] + _DRAWN)


def _flipped(differences: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """How often the sum of differences (documents, atoms) is as large with random signs, one-sided."""
    found, reached, left = differences.sum(0), np.ones(differences.shape[1]), draws
    tolerance = 1e-12 * np.abs(differences).sum(0)
    while left:
        signs = generator.integers(0, 2, (min(left, _PIECE), len(differences))).astype(np.float64) * 2 - 1
        reached += (signs @ differences >= found - tolerance).sum(0)
        left -= len(signs)
    return reached / (draws + 1)

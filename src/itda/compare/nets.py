"""Overlap of the simplest dictionaries there are, at every scale at once: which rows are unlike all atoms before them?

A net at gap g is the dictionary of one step that takes the rows one by one and keeps each whose cosine with every atom
so far is below 1 - g. At one gap, layers differ mostly in how many rows they keep; over many gaps, which rows are new
at which scale tells layers apart, once it is counted beyond chance.
"""

from functools import cached_property
from typing import NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itda.compare.representations import Representation, sampled
from itda.errors import ShapeError

_BLOCK = 1024  # rows whose cosines are computed together
_FARTHEST = -2.0  # below any cosine
_LEAST_GAP = 1e-4
_TRIED = 61  # gaps at once, a bit of an integer each
_ROUNDS = 10  # of fitting chances, far more than it takes
_NO_CHOICE = 1e-9  # of chance below 1: every row is kept by both


class Preset(NamedTuple):
    """How dictionaries of layers are made to be compared."""

    gaps: tuple[float, ...]
    """1 - cosine with the nearest atom, above which a row becomes an atom; one dictionary for each."""
    rows: int
    """At most so many rows, spread evenly."""


PRESET = Preset(gaps=tuple(0.02 * 2 ** (step / 4) for step in range(21)), rows=20_000)
"""Pinned, so that numbers stay comparable: 21 gaps from 0.02 to 0.64, on whitened rows, whatever `whiten` says."""


class Nets:
    """Which rows of a representation are atoms at each gap."""

    def __init__(
        self, representation: Representation, kinds: Tensor | None = None, *, atoms: int | None = None
    ) -> None:
        """Args:
        representation: whitened.
        kinds: int64 (N,) of its rows, such that chance may only exchange rows of one kind; all are alike by default.
        atoms: no dictionary has more: each is made of so many rows, near ones and far ones in turn (see `stretches`).
            By default each is made of all rows.
        """
        self._representation, self._kinds, self._atoms = representation, kinds, atoms

    @cached_property
    def _places(self) -> Tensor:
        return sampled(len(self._representation), PRESET.rows)

    @cached_property
    def _stretches(self) -> list[Tensor]:
        count = len(self._places)
        return [torch.arange(count)] if self._atoms is None else stretches(count, self._atoms)

    @cached_property
    def rows(self) -> Tensor:
        """float32 (n, R), less their mean."""
        here, rows = 0, []
        for _, block in self._representation.blocks():
            inside = self._places[(self._places >= here) & (self._places < here + len(block))]
            rows.append(block[inside - here])
            here += len(block)
        sums = self._representation.sums
        return (torch.cat(rows) - sums.rows / sums.count).float()

    @cached_property
    def members(self) -> Tensor:
        """float32 (G, m), 1 for atoms, of the rows of all stretches, one stretch after the other."""
        return torch.cat([members_of(self.rows[one], PRESET.gaps) for one in self._stretches], 1).float()

    @cached_property
    def kinds(self) -> Tensor:
        """int64 (m,), numbered from 0."""
        kinds = torch.zeros(len(self._places)) if self._kinds is None else self._kinds[self._places]
        numbered: Tensor = torch.unique(kinds[torch.cat(self._stretches)], return_inverse=True)[1]
        return numbered

    @cached_property
    def chances(self) -> Tensor:
        """How likely each row is to be an atom, whatever is in it, float64 (G, m)."""
        return chances_of(self.members, self.kinds, torch.cat([torch.arange(len(one)) for one in self._stretches]))


def overlap(first: Nets, second: Nets) -> float:
    """How many atoms dictionaries of both have in common beyond chance, the mean over 21 scales.

    At each gap g, with J the Jaccard similarity of the rows kept by both and E what it would be had each kept as many
    of every token and position, and as many of each octave of rows (the first are nearly all new), but any of them:
    (J - E) / (1 - E). Rows are taken in their order, and whitened. Unchanged by every invertible affine map, so by all
    that size or spread could say. Of Activations, chance keeps token and position; of bare rows, their order alone.
    Source: Leask, Nanda & Al Moubayed 2025, section 5, for Jaccard; Hubert & Arabie 1985 for the adjustment.
    """
    adjusted = beyond_chance((first.members, second.members), (first.chances, second.chances))[2]
    known = adjusted[~adjusted.isnan()]
    if not len(known):
        raise ShapeError(
            f"Each of the {len(first.kinds):,} rows is unlike all others, so every dictionary keeps every row. Take "
            "more rows than a few for every column."
        )
    return float(known.mean())


def beyond_chance(members: tuple[Tensor, Tensor], chances: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Jaccard similarity of the atoms of two nets, what chance gives, and (J - E) / (1 - E), float64 (G,).

    Args:
        members: 1 for atoms, (G, n) each.
        chances: from `chances_of`.
    Returns: NaN in the last where chance gives all: every row of some kind was kept, nothing was chosen.
    """
    one, other = (part.double() for part in members)
    shared, by_chance = (one * other).sum(1), (chances[0] * chances[1]).sum(1)
    both = one.sum(1) + other.sum(1)
    found, expected = shared / (both - shared), by_chance / (both - by_chance)
    return found, expected, torch.where(expected < 1 - _NO_CHOICE, (found - expected) / (1 - expected), torch.nan)


def stretches(count: int, size: int) -> list[Tensor]:
    """Rows in stretches of `size`, int64 each: neighbours, every second one, every fourth ..., as far as they go.

    Near rows are of one text, far ones are not, and what is new differs: every row is in one stretch of each spacing.
    """
    found, spacing = [], 1
    while spacing == 1 or spacing * size <= count:
        for start in range(0, count, spacing * size):
            end = min(start + spacing * size, count)
            found += [torch.arange(first, end, spacing) for first in range(start, min(start + spacing, end))]
        spacing *= 2
    return found


def chances_of(members: Tensor, kinds: Tensor, before: Tensor) -> Tensor:
    """How likely rows are to be atoms by their kind and by how many rows come before them, float64 (G, n).

    A row of kind k in octave o of the rows is an atom with chance u_k v_o, such that each kind and each octave has as
    many atoms as it has (iterative proportional fitting: Deming & Stephan 1940).

    Args:
        members: (G, n), 1 for atoms.
        kinds: int64 (n,), numbered from 0.
        before: int64 (n,), how many rows come before each.
    """
    octaves = torch.log2(before + 1.0).long()
    chances = torch.ones(members.shape, dtype=torch.float64)
    tables = []
    for groups in (octaves, kinds):  # the last is met to the end
        wanted = torch.zeros((len(members), int(groups.max()) + 1), dtype=torch.float64)
        tables.append((groups, wanted.index_add_(1, groups, members.double())))
    for _ in range(_ROUNDS):
        for groups, wanted in tables:
            there = torch.zeros_like(wanted).index_add_(1, groups, chances)
            chances = (chances * (wanted / there.clamp_min(1e-12))[:, groups]).clamp_max(1)
    return chances


def members_of(rows: Tensor, gaps: tuple[float, ...]) -> Tensor:
    """Which rows (n, D) are atoms of the net at each gap, bool (G, n); a row that is zero is none."""
    units = torch.nn.functional.normalize(rows, dim=1)
    ends = 1 - np.array(gaps, np.float32)
    kept = np.zeros(len(units), np.int64)
    for start in range(0, len(units), _BLOCK):
        part = units[start : start + _BLOCK]
        _grow((part @ units[: start + len(part)].T).numpy(), part.any(1).numpy(), ends, kept, start)
    bits = torch.from_numpy(kept)
    return torch.stack([(bits >> gap) & 1 == 1 for gap in range(len(gaps))])


def as_many(rows: Tensor, atoms: int) -> Tensor:
    """The atoms of the net with the number of atoms nearest to what is asked, bool (1, n).

    Raises: ShapeError for more than there are different rows.
    """
    gaps = np.geomspace(_LEAST_GAP, 2, _TRIED)
    for _ in range(2):
        members = members_of(rows, tuple(gaps))
        far = (members.sum(1) - atoms).abs()
        best = int(far.argmin())
        gaps = np.linspace(gaps[max(best - 1, 0)], gaps[min(best + 1, _TRIED - 1)], _TRIED)
    found = int(members[best].sum())
    if found < 0.9 * atoms:
        raise ShapeError(
            f"Of {len(rows):,} rows at most {found:,} are unlike each other. Asked for: {atoms:,}. Give more "
            "tokens, or ask for fewer atoms (atoms=, --atoms)."
        )
    return members[best : best + 1]


@numba.njit(cache=True)
def _grow(
    cosines: NDArray[np.float32],
    directed: NDArray[np.bool_],
    ends: NDArray[np.float32],
    kept: NDArray[np.int64],
    start: int,
) -> None:
    """Decide of rows from `start` on, given their cosines with all rows up to them; bit g of `kept` is for gap g."""
    count = len(ends)
    best = np.empty(count, np.float32)
    for row in range(len(cosines)):
        best[:] = _FARTHEST
        least = _FARTHEST
        for other in range(start + row):
            cosine = cosines[row, other]
            # Hardly any row is nearer than the nearest atom of the sparsest net
            if cosine > least:
                for gap in range(count):
                    if (kept[other] >> gap) & 1 and cosine > best[gap]:
                        best[gap] = cosine
                least = best.min()
        if directed[row]:
            for gap in range(count):
                if best[gap] < ends[gap]:
                    kept[start + row] |= 1 << gap

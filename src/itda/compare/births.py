"""From which checkpoint on does a model tell the tokens of an atom from those nearest to them?"""

from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from itda.data.dictionary import Dictionary
from itda.pursuit import Codes
from itda.randomness import seeded

LEAST_TOKENS, LEAST_DOCUMENTS = 10, 5
_NEIGHBOURS = 8
_OWN, _OTHERS = 120, 240  # tokens of an atom, and beside them, at most
_RESAMPLES = 200
_AT_ONCE = 64  # atoms
_TOLD = 0.6  # the area at the last checkpoint, below which an atom is never told apart


class Watched(NamedTuple):
    """Some atoms and the held-out tokens on which they are followed; -1 where there are fewer."""

    atoms: Tensor
    """int64 (W,)."""
    tokens: Tensor
    """int64 (W,): how many have it in their code at the last checkpoint."""
    own: Tensor
    """int64 (W, 120): some of them."""
    near: Tensor
    """int64 (W, 240): tokens whose code has one of its nearest eight atoms, and not it."""
    any: Tensor
    """int64 (W, 240): tokens whose code does not have it."""
    needed: Tensor
    """float32 (W,): the area under the curve that says it is born: halfway from chance to that of the last checkpoint
    on every other document. On the others it is dated."""

    def select(self, kept: Tensor) -> Self:
        """Some of the atoms."""
        return type(self)(*(column[kept] for column in self))


class Births(NamedTuple):
    """Of W atoms over C checkpoints."""

    found: Tensor
    """float64 (W, C): area under the curve at which the cosine with the atom finds its tokens among any."""
    told: Tensor
    """float64 (W, C): the same among those of its nearest atoms."""
    born: Tensor
    """int64 (W,): the first checkpoint from which on `told` is at least what is needed; C if it is not even at last."""
    interval: Tensor
    """int64 (W, 2): 95 % of it, by drawing documents with replacement."""


def watched(codes: Codes, dictionary: Dictionary, rows: Tensor, documents: Tensor, *, seed: int) -> Watched:
    """Atoms whose tokens can be told from others at the last checkpoint, and the tokens to look at.

    That is: codes have them at ten held-out tokens of five documents, on every other document the area under the curve
    among tokens of their nearest atoms is at least 0.6, and on the others it is at least halfway there.

    Args:
        codes: of n held-out tokens.
        dictionary: of the last checkpoint.
        rows: (n, D), as the last checkpoint has them.
        documents: int64 (n,), the number of the document of each.
        seed: of the draws.
    """
    generator = seeded(seed)
    size, count = len(dictionary), int(documents.max()) + 1
    used = codes.atoms >= 0
    which, row = codes.atoms[used].long(), torch.arange(len(codes))[:, None].expand_as(used)[used]
    pairs = torch.unique(which * count + documents[row])
    several = torch.bincount(pairs // count, minlength=size) >= LEAST_DOCUMENTS
    usage = codes.usage(size)
    atoms = torch.nonzero(several & (usage >= LEAST_TOKENS))[:, 0]
    order = torch.argsort(which, stable=True)
    groups = torch.split(row[order], usage.tolist())
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in torch.split(atoms, _AT_ONCE):
        cosines = dictionary.atoms[part] @ dictionary.atoms.T
        cosines[torch.arange(len(part)), part] = -1
        nearest = cosines.topk(min(_NEIGHBOURS, size - 1)).indices
        for atom, neighbours in zip(part.tolist(), nearest.tolist(), strict=True):
            has = torch.zeros(len(codes), dtype=torch.bool)
            has[groups[atom]] = True
            near = torch.unique(torch.cat([groups[other] for other in neighbours]))
            columns.append(
                (
                    _some(groups[atom], _OWN, generator),
                    _some(near[~has[near]], _OTHERS, generator),
                    _some(torch.nonzero(~has)[:, 0], _OTHERS, generator),
                )
            )
    if not columns:
        nothing = atoms[:, None]
        return Watched(atoms, atoms, nothing, nothing, nothing, atoms.float())
    own, near, others = (torch.stack(column) for column in zip(*columns, strict=True))
    found = Watched(atoms, usage[atoms], own, near, others, torch.zeros(len(atoms)))
    high, low, _ = scores_of(found, dictionary.atoms[atoms], rows - dictionary.mean)
    parts = torch.split(torch.arange(len(atoms)), _AT_ONCE)
    admitting, dating = (
        torch.cat(
            [_area(_among(half, own[part]), _among(half, near[part]), high[part], low[part])[0] for part in parts]
        )
        for half in (documents % 2 == 0, documents % 2 == 1)
    )
    needed = 0.5 + (admitting - 0.5) / 2
    kept = (admitting >= _TOLD) & (dating >= needed)
    return found._replace(needed=needed).select(torch.nonzero(kept)[:, 0])


def _among(admitted: Tensor, places: Tensor) -> Tensor:
    """1 for places that are admitted, float32 (1, W, tokens)."""
    return (admitted[places] & (places >= 0))[None].float()


def _some(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    drawn = torch.full((count,), -1)
    chosen = rows[torch.randperm(len(rows), generator=generator)[:count]]
    drawn[: len(chosen)] = chosen
    return drawn


def scores_of(watch: Watched, atoms: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of atoms (W, D) with the rows (n, D, centred) that are looked at, float32: of own, near and any."""
    units = torch.nn.functional.normalize(rows, dim=1)
    found = []
    for places in (watch.own, watch.near, watch.any):
        parts = [
            torch.einsum("wd,wtd->wt", own, units[where])
            for own, where in zip(torch.split(atoms, _AT_ONCE), torch.split(places, _AT_ONCE), strict=True)
        ]
        found.append(torch.cat(parts))
    return found[0], found[1], found[2]


def births_of(watch: Watched, scores: list[tuple[Tensor, Tensor, Tensor]], documents: Tensor, *, seed: int) -> Births:
    """When atoms are born, by the documents that did not say which atoms to watch.

    Args:
        watch: the atoms and their tokens.
        scores: of each of C checkpoints, from `scores_of`.
        documents: int64 (n,), the number of the document of each token.
        seed: of the draws.
    """
    dates = torch.arange(int(documents.max()) + 1) % 2 == 1
    weights = torch.zeros(_RESAMPLES + 1, len(dates))
    weights[0, dates] = 1
    count = int(dates.sum())
    shares = np.full(count, 1 / count)
    weights[1:, dates] = torch.from_numpy(np.random.default_rng(seed).multinomial(count, shares, _RESAMPLES)).float()
    found, told, born, ends = [], [], [], []
    for start in range(0, len(watch.atoms), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)

        def weight(places: Tensor) -> Tensor:
            """(R, W, tokens): how often the document of each token was drawn."""
            return weights[:, documents[places]] * (places >= 0)

        own, near, others = (weight(places[part]) for places in (watch.own, watch.near, watch.any))
        curves = torch.stack([_area(own, near, one[0][part], one[1][part]) for one in scores], 2)
        told.append(curves[0])
        found.append(torch.stack([_area(own[:1], others[:1], one[0][part], one[2][part])[0] for one in scores], 1))
        all_born = _born(curves, watch.needed[part])
        born.append(all_born[0])
        spread = all_born[1:].double()
        low, high = (torch.quantile(spread, share, dim=0, interpolation="nearest") for share in (0.025, 0.975))
        ends.append(torch.stack([low, high], 1).long())
    return Births(torch.cat(found).double(), torch.cat(told).double(), torch.cat(born), torch.cat(ends))


def _area(own: Tensor, others: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """Area under the curve, weighted, (R, W): how often an own token scores higher than another; ties count half."""
    above = (high[:, :, None] > low[:, None, :]).float() + 0.5 * (high[:, :, None] == low[:, None, :]).float()
    wins = torch.einsum("rwp,wpq->rwq", own, above)
    return (wins * others).sum(2) / (own.sum(2) * others.sum(2)).clamp_min(1)


def _born(told: Tensor, needed: Tensor) -> Tensor:
    """Of curves (R, W, C) and what is needed (W,)."""
    stays = (told >= needed[:, None]).flip(-1).long().cumprod(-1).sum(-1)
    return told.shape[-1] - stays

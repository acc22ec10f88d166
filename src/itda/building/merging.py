"""Several dictionaries of the same place, each from its own text, made into one."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from itda.building.calibrating import calibrated
from itda.building.greedy import GreedyBuilder
from itda.building.options import GreedyOptions
from itda.data import provenance
from itda.data.activations import Activations
from itda.data.build_records import BuildRecord, library_versions
from itda.data.dictionary import Dictionary
from itda.data.mixtures import Mixtures
from itda.data.sources import Sources
from itda.data.token_means import TokenMeans, TokenMeansAccumulator
from itda.errors import ActivationError, MismatchError, OptionError
from itda.options import listed, share, whole
from itda.pursuit import Coding, prepare, pursue
from itda.shapes import as_matrix


def merge(
    dictionaries: Sequence[Dictionary],
    *,
    atoms: int | None = None,
    max_unexplained: float | None = None,
    rows: Any = None,
) -> Dictionary:
    """One dictionary from the atoms of several, the best of which are kept. A pure function of its arguments.

    With a sample of rows, those atoms are kept that carry the most of their energy when all may be used. Without, the
    atoms are looked at as a greedy build looks at rows: in turn from each part, the worst explained first.

    It differs from one build over all the text: only what was an atom of a part can become one, so what is common in
    all parts but outstanding in none is missed, and the mean is that of the parts' means. From parts with twice the
    atoms between them and a sample of rows it leaves 0 to 11 % more unexplained than one build, for 2 to 8 parts;
    without rows, 11 to 22 % (docs/scaling.md).

    Args:
        dictionaries: of one model, site and coding, built from disjoint parts of a corpus.
        atoms: how many are kept; all that are no repeat of others by default.
        max_unexplained: take no atom of which those taken before it leave less unexplained: for parts that were built
            to a threshold. Without a sample of rows only.
        rows: Activations or a matrix (N, D), of all parts, a few thousand or more.
    Returns: a dictionary that remembers all documents of its parts. Rows of bare parts are numbered through.
    Raises: MismatchError if the parts do not belong together; OptionError for more atoms than there are; ShapeError;
        ActivationError if fewer atoms are left than codes have steps.
    """
    parts = listed("dictionaries", dictionaries)
    _check(parts)
    there = sum(map(len, parts))
    if atoms is not None:
        atoms = whole("atoms", atoms)
        if atoms > there:
            raise OptionError(f"The dictionaries have {there:,} atoms together. Got atoms={atoms:,}; ask for fewer.")
        if atoms < parts[0].coding.steps:
            raise OptionError(f"Codes of these dictionaries have {parts[0].coding.steps} steps. Got atoms={atoms}.")
    if max_unexplained is not None:
        max_unexplained = share("max_unexplained", max_unexplained)
        if rows is not None:
            raise OptionError("max_unexplained= is for atoms, not for a sample of rows. Leave one of them out.")
    coding, width = parts[0].coding.asked, parts[0].width
    weights = torch.tensor([part.build.rows for part in parts], dtype=torch.float64)
    weighted = [part.mean.double() * weight for part, weight in zip(parts, weights, strict=True)]
    mean = (torch.stack(weighted).sum(0) / weights.sum()).float()
    order = _in_turn([len(part) for part in parts])
    candidates = (torch.cat([part.activations for part in parts]) - mean)[order]
    if rows is None:
        sample, kept = candidates, _least_explained(candidates, coding, atoms or there, max_unexplained)
    else:
        if isinstance(rows, Activations):
            parts[0].check_activations(rows)
            rows = rows.rows
        sample = as_matrix(rows, "rows", "N, D", width=width) - mean
        kept = _most_used(candidates, sample, coding, atoms or there)
    if len(kept) < coding.steps:
        raise ActivationError(
            f"Of the {there:,} atoms {len(kept)} are left, fewer than the {coding.steps} steps: the others are repeats "
            "or sums of these. Merge more parts, or build them with fewer steps."
        )
    notes: tuple[str, ...] = ()
    if atoms is not None and len(kept) < atoms:
        why = "the others are repeats or sums of these" if rows is None else "the rows use no others"
        notes = (f"Only {len(kept):,} of {atoms:,} atoms could be taken: {why}.",)
    norms = torch.linalg.vector_norm(candidates[kept], dim=1)
    unit = candidates[kept] / norms[:, None]
    prepared = prepare(unit)
    thresholds = {length for part in parts if (length := part.coding.stop_below) is not None}
    if rows is None or len(thresholds) == 1:  # no part's text may be told less than in its part; one may be a choice
        coding = replace(coding, stop_below=min(thresholds, default=None))
    else:
        coding = calibrated(coding, sample, prepared)
    codes = pursue(sample, prepared, coding)
    place = order[kept]
    known = [part.provenance for part in parts if part.provenance]
    rows_before = [0, *accumulate(part.build.rows for part in parts[:-1])]
    mixed = [
        replace(part.mixtures, sources=_after(part.mixtures.sources, before))
        for part, before in zip(parts, rows_before, strict=True)
        if part.mixtures is not None
    ]
    counts, energy = (torch.cat([getattr(part, f"usage_{what}") for part in parts]) for what in ("counts", "energy"))
    return Dictionary(
        atoms=unit,
        norms=norms,
        mean=mean,
        sources=Sources.concatenate(
            _after(part.sources, before) for part, before in zip(parts, rows_before, strict=True)
        ).select(place),
        coding=coding,
        build=BuildRecord(
            method="merge",
            options={
                "atoms": atoms,
                "max_unexplained": max_unexplained,
                "rows": None if rows is None else len(sample),
                "parts": [p.fingerprint for p in parts],
            },
            rows=int(weights.sum()),
            threshold=min((t for part in parts if (t := part.build.threshold) is not None), default=None),
            unexplained=None if rows is None else round(float(codes.unexplained.mean()), 6),
            notes=notes,
            versions=library_versions(),
        ),
        usage_counts=counts[place] if rows is None else codes.usage(len(unit)),
        usage_energy=energy[place] if rows is None else codes.energy(len(unit)),
        documents=tuple(document for part in parts for document in part.documents),
        provenance=provenance.joined(known) if known else None,
        token_means=_token_means(parts),
        kind=parts[0].kind,
        mixtures=Mixtures.concatenate(mixed).select(place) if mixed else None,
    )


def _least_explained(candidates: Tensor, coding: Coding, atoms: int, max_unexplained: float | None) -> Tensor:
    """Which of the candidates a greedy build takes, by place."""
    options = GreedyOptions(atoms=atoms, max_unexplained=max_unexplained, expected_rows=len(candidates), center=False)
    builder = GreedyBuilder(candidates.shape[1], coding, options)
    builder.update(candidates, Sources.of_rows(len(candidates)))
    return builder.taken()


def _most_used(candidates: Tensor, sample: Tensor, coding: Coding, atoms: int) -> Tensor:
    """Which of the candidates carry the most energy of a sample, by place; those that carry none are left out."""
    codes = pursue(sample, torch.nn.functional.normalize(candidates, dim=1), coding)
    energy = codes.energy(len(candidates))
    best = torch.argsort(energy, descending=True, stable=True)[: min(atoms, max(coding.steps, int((energy > 0).sum())))]
    return best.sort().values


def _check(parts: Sequence[Dictionary]) -> None:
    if not parts or not all(isinstance(part, Dictionary) for part in parts):
        raise OptionError("merge takes a list of dictionaries. Got something else, or none.")
    for one in parts:
        one.check_named("A merge")
    first = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        what = f"Dictionary {number}"
        if part.width != first.width:
            raise MismatchError(f"{what} has width {part.width}, the first {first.width}. Merge those of one place.")
        if part.kind != first.kind or _mixed(part) != _mixed(first):
            raise MismatchError(f"{what} has other {part.kind} than the first, {first.kind}. Build both alike.")
        if part.coding.asked != first.coding.asked:
            raise MismatchError(f"{what} has the coding {part.coding}, the first {first.coding}. Build both alike.")
        if (part.provenance is None) != (first.provenance is None):
            raise MismatchError(f"{what} and the first are not of one kind: one of them was built from a bare array.")
        if part.provenance is not None and first.provenance is not None:
            first.provenance.check_alike(part.provenance, "the first dictionary", what)
    documents = [document for part in parts for document in part.documents]
    if len(set(documents)) < len(documents):
        raise MismatchError("The dictionaries share documents they were built from. Merge those of disjoint parts.")


def _mixed(part: Dictionary) -> int:
    """Of how many activations an atom is mixed at most."""
    return part.mixtures.weights.shape[1] if part.mixtures is not None else 1


def _after(sources: Sources, rows: int) -> Sources:
    """Sources of a part behind so many rows of other parts: a number is the only name that a bare row has."""
    return sources if sources.named else replace(sources, row=sources.row + rows)


def _in_turn(sizes: Sequence[int]) -> Tensor:
    """Places of all atoms, one of each part after the other, in the order in which each part took them."""
    starts = [sum(sizes[:part]) for part in range(len(sizes))]
    return torch.tensor(
        [start + turn for turn in range(max(sizes)) for start, size in zip(starts, sizes, strict=True) if turn < size]
    )


def _token_means(parts: Sequence[Dictionary]) -> TokenMeans | None:
    """The means over the rows of all parts, as well as their rounding allows."""
    known = [part.token_means for part in parts if part.token_means is not None]
    if len(known) < len(parts):
        return None
    together = TokenMeansAccumulator(parts[0].width)
    for means in known:
        together.add(means)
    return together.finish()

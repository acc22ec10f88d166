"""More atoms for a dictionary that stays as it is: the old ones keep their numbers."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.building.builder import Atoms
from itda.building.calibrating import calibrated
from itda.building.mixture import mixtures_beside
from itda.building.options import MixtureOptions
from itda.building.pools import Encoder, Pool, activations_of, pool_of
from itda.building.proposing import propose, propose_rows
from itda.building.request import check_room
from itda.building.reservoir import Reservoir
from itda.capturing import capture_like
from itda.data.activations import Activations, BareRows
from itda.data.build_records import BuildRecord, library_versions
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.entries import RowsOnDisk
from itda.data.lots import evenly
from itda.data.mixtures import Mixtures
from itda.data.sources import Sources
from itda.data.token_means import TokenMeans, TokenMeansAccumulator
from itda.errors import ActivationError, CorpusError, OptionError
from itda.models.loading import Model
from itda.options import seed_number, whole
from itda.pursuit import prepare, pursue
from itda.randomness import seeded
from itda.shapes import as_matrix

_ROUNDS = 6
_MORE = 0.15  # share of the new atoms that come in besides those that stay
_SAMPLE_ROWS = 8192
_POOL_ROWS, _READ_AT_ONCE = 131_072, 4096  # of a store


def extend(
    dictionary: Dictionary,
    model: Model,
    corpus: Corpus,
    *,
    atoms: int,
    tokens: int | None = None,
    seed: int = 0,
    check_model: bool = True,
    progress: bool = True,
) -> Dictionary:
    """Add atoms from other text, and leave those that are there, their numbers and the mean as they are.

    Codes and notes made for the old dictionary keep their meaning: atom 17 is still atom 17.

    Args:
        dictionary: built from a model's activations.
        model: the one it was built on.
        corpus: other text; documents that the dictionary was built from are left out.
        atoms: how many more.
        tokens: how many to read, spread evenly over the documents; None for all.
        seed: of every random choice.
        check_model: refuse a model with other weights.
        progress: draw a bar on stderr.
    Returns: a dictionary that remembers the documents of both.
    Raises: as `extend_from_activations`; CorpusError without other text; MismatchError for another model.
    """
    checked_dictionary(dictionary)
    if not isinstance(corpus, Corpus):
        raise CorpusError(f"extend needs an itda.Corpus. Got {type(corpus).__name__}; try Corpus.from_texts.")
    other = corpus.without(set(dictionary.documents))
    if not other.ids:
        raise CorpusError(f"The dictionary was built from all documents of {corpus.name}. Give other text.")
    found = capture_like(dictionary, model, other, tokens=tokens, seed=seed, check_model=check_model, progress=progress)
    if not check_model:  # said to be as good as the dictionary's own
        own = dictionary.provenance.model if dictionary.provenance else found.provenance.model
        found = Activations(found.rows, found.sources, replace(found.provenance, model=own), found.documents)
    return extend_from_activations(dictionary, found, atoms=atoms, seed=seed, progress=progress)


def extend_from_activations(
    dictionary: Dictionary, rows: Any, *, atoms: int, sources: Any = None, seed: int = 0, progress: bool = True
) -> Dictionary:
    """Add atoms from rows that are already there; see `extend`.

    In rounds, rows come in that would save the most beside all that is there, and of the new ones those stay that
    carry the most. Mixtures begin at these.

    Args:
        dictionary: whose atoms are activations, or mixtures of them; the new ones will be alike.
        rows: Activations of its site, or a matrix (N, D) for a dictionary of bare rows.
        atoms: how many more.
        sources: where the rows of a bare matrix come from, as of `build_from_activations`, for a dictionary that was
            built with them; without, rows are numbered on.
        seed: of every random choice.
        progress: draw a bar on stderr.
    Raises: OptionError for learned atoms, or more atoms than rows; ActivationError; MismatchError.
    """
    checked_dictionary(dictionary)
    atoms, seed = whole("atoms", atoms), seed_number(seed)
    dictionary.check_named("Adding atoms")
    given = _given(dictionary, rows, sources)
    if atoms > len(given):
        raise OptionError(f"There are {len(given):,} rows to take atoms from. Got atoms={atoms:,}; ask for fewer.")
    matrix, known = _pool_of(given, dictionary.width)
    check_room(len(matrix), dictionary.width)
    pool = pool_of(matrix - dictionary.mean, known, dictionary.mean)
    if not len(pool.rows):
        raise ActivationError("These rows are all the dictionary's mean, so there is nothing to add.")
    encode, generator = Encoder(dictionary.coding.asked, "auto", None), seeded(seed)
    chosen = _chosen(dictionary.atoms, pool, atoms, encode, generator, progress)
    if not len(chosen):
        raise ActivationError("Nothing in these rows is missed by the dictionary, so there is nothing to add.")
    if dictionary.mixtures is None:
        added = activations_of(pool, chosen)
    else:
        added = _mixed(dictionary, dictionary.mixtures, pool, chosen, encode, generator, progress)
    mixtures = [part.mixtures for part in (dictionary, added) if part.mixtures is not None]
    unit = torch.cat([dictionary.atoms, added.prepared.atoms])
    sample = pool.rows[evenly(len(pool.rows), _SAMPLE_ROWS)]
    prepared, coding = prepare(unit), dictionary.coding
    # As many atoms in the mean of these rows, but no row is told less than before
    if coding.most is not None and coding.stop_below is not None:
        found = calibrated(coding.asked, sample, prepared).stop_below
        coding = replace(coding, stop_below=min(found or math.inf, coding.stop_below))
    codes = pursue(sample, prepared, coding)
    notes = dictionary.build.notes
    if len(chosen) < atoms:
        notes += (f"Only {len(chosen):,} of {atoms:,} more atoms could be taken: nothing else was missed.",)
    options = {"atoms": atoms, "seed": seed, "of": dictionary.fingerprint, "had": len(dictionary)}
    return replace(
        dictionary,
        atoms=unit,
        norms=torch.cat([dictionary.norms, added.norms]),
        coding=coding,
        sources=Sources.concatenate([dictionary.sources, added.sources]),
        build=BuildRecord(
            method="extend",
            options=options,
            rows=dictionary.build.rows + len(given),
            threshold=None,
            unexplained=round(float(codes.unexplained.mean()), 6),
            notes=notes,
            versions=library_versions(),
        ),
        usage_counts=codes.usage(len(unit)),
        usage_energy=codes.energy(len(unit)),
        documents=tuple(dict.fromkeys([*dictionary.documents, *given.documents])),
        token_means=_token_means(dictionary, given),
        mixtures=Mixtures.concatenate(mixtures) if mixtures else None,
    )


def _given(dictionary: Dictionary, rows: Any, sources: Any) -> Activations | RowsOnDisk | BareRows:
    """The rows, with sources of the kind that the dictionary's atoms have."""
    if isinstance(rows, RowsOnDisk | Activations):
        dictionary.check_activations(rows)
        if sources is not None:
            raise OptionError("These activations bring their sources. Leave sources= out.")
        return rows.whole() if isinstance(rows, RowsOnDisk) else rows
    matrix = as_matrix(rows, "rows", "N, D", width=dictionary.width)
    if dictionary.provenance is not None:
        raise OptionError("This dictionary knows the text of every atom. Give Activations, as itda.capture makes them.")
    if dictionary.sources.named != (sources is not None):
        raise OptionError(
            "The atoms of this dictionary have names. Give sources= for the new rows too."
            if sources is None
            else "The atoms of this dictionary have row numbers only. Leave sources= out."
        )
    known = Sources.of_rows(len(matrix), first=dictionary.build.rows)
    if sources is not None:
        known = Sources.of_table(sources)
        if taken := set(dictionary.sources.keys()) & set(known.keys()):
            row = known.keys().index(min(taken))
            raise OptionError(f"Row {row} has the name of an atom that is there, {known[row].text}. Name it otherwise.")
    return BareRows(matrix, known)


def _pool_of(given: Activations | RowsOnDisk | BareRows, width: int) -> tuple[Tensor, Sources]:
    """Rows (N, D) to choose from and their sources: of a store as many as fit, evenly over all."""
    if not isinstance(given, RowsOnDisk):
        block = next(given.blocks(len(given)))
        return as_matrix(block.rows, "rows", "N, D", width=width), block.sources
    kept = Reservoir(width, _POOL_ROWS)
    for block in given.blocks(_READ_AT_ONCE):
        kept.update(block.rows, block.sources)
    return kept.rows, kept.sources


def _token_means(dictionary: Dictionary, given: Activations | RowsOnDisk | BareRows) -> TokenMeans | None:
    """The means over the rows that were there and the new ones."""
    if dictionary.token_means is None:
        return None
    means = TokenMeansAccumulator(dictionary.width)
    means.add(dictionary.token_means)
    for block in given.blocks(_READ_AT_ONCE):
        means.update(block.rows, block.sources.token_id)
    return means.finish()


def _chosen(old: Tensor, pool: Pool, count: int, encode: Encoder, generator: torch.Generator, progress: bool) -> Tensor:
    """Rows of the pool, by index, in order."""
    chosen = torch.empty(0, dtype=torch.int64)
    with progress_bars.bar("extend", _ROUNDS, show=progress) as advance:
        for number in range(1, _ROUNDS + 1):
            size = -(-count * number // _ROUNDS)
            wanted = size - len(chosen) + int(_MORE * size)
            looked_at, candidates = propose_rows(len(pool.rows), max(len(old), count), generator)
            atoms = torch.cat([old, pool.units(chosen)])
            best = candidates[propose(pool.rows[looked_at], atoms, pool.units(candidates), encode, wanted)]
            chosen = torch.cat([chosen, best[~torch.isin(best, chosen)]])
            measured = pool.rows[torch.randperm(len(pool.rows), generator=generator)[: 2 * len(looked_at)]]
            energy = encode(measured, torch.cat([old, pool.units(chosen)])).energy(len(old) + len(chosen))[len(old) :]
            chosen = chosen[torch.argsort(energy, descending=True, stable=True)[:size]]
            advance(1)
    return chosen.sort().values


def _mixed(
    dictionary: Dictionary, mixtures: Mixtures, pool: Pool, chosen: Tensor, encode: Encoder,
    generator: torch.Generator, progress: bool,
) -> Atoms:  # fmt: skip
    """Mixtures of rows of the pool that begin at those chosen, of as many parts as the dictionary's."""
    passes, parts = MixtureOptions.passes, mixtures.weights.shape[1]
    with progress_bars.bar("mix", passes * len(pool.rows), show=progress) as advance:
        encode = encode._replace(advance=advance)
        return mixtures_beside(dictionary.atoms, pool, pool.units(chosen), encode, parts, passes, generator)

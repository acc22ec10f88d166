"""Dictionaries from those of parts: each worker builds from its own, and the best atoms of all are kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from itda.building import NAMELESS, BuildRequest, default_atoms, merge
from itda.building import split_options as split_build_options
from itda.capturing import CaptureOptions
from itda.data.corpus import Corpus, checked_corpus
from itda.data.dictionary import Dictionary
from itda.data.entries import RowsOnDisk
from itda.data.joined import JoinedActivations
from itda.data.token_means import TokenMeansAccumulator
from itda.errors import OptionError
from itda.models.loading import Model
from itda.options import checked
from itda.scale import results
from itda.scale.cluster import connected
from itda.scale.shares import mapped, results_in, split_options, surveyed
from itda.scale.tasks import BuildPart, BuildStoredPart, ModelSource, load_built

_OVERSAMPLED = 2  # atoms of all parts together, for each one that is kept
_SAMPLE = 32_768  # rows by which those are chosen


def build(model: str | Path | Model, corpus: Corpus, *, site: str | None = None, **options: Any) -> Dictionary:
    """Build a dictionary from one of each part of the corpus; as `build_many` at one site."""
    if not isinstance(site, str | None):
        raise OptionError(f"build takes one site. Got {site!r}; for several use build_many(..., sites=[...]).")
    return next(iter(build_many(model, corpus, sites=None if site is None else [site], **options).values()))


def build_many(
    model: str | Path | Model,
    corpus: Corpus,
    *,
    sites: Sequence[str] | None = None,
    tokens: int | None = None,
    folder: str | Path | None = None,
    every: float = 60.0,
    load: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> dict[str, Dictionary]:
    """Build dictionaries from those of the parts of a corpus.

    Each part gives its share of twice the atoms; of all of them those are kept that carry the most energy of a sample
    of rows of all parts (`itda.merge`, which says how the result differs from that of one build).

    Args:
        model: a name or folder, which every worker loads; or a model, which is sent to them.
        corpus: what is read.
        sites: places in the model; the middle by default.
        tokens: how many rows of all parts together; all by default.
        folder: where parts leave their results, for the same call to go on from; it stays until it is removed. A
            temporary one by default, which only workers on this machine can use.
        every: seconds between two checkpoints within a part.
        load: options of `load_model` for a name.
        progress: draw a bar on stderr.
        options: fields of `BuildRequest`, `CaptureOptions` and `ScaleOptions`.
    Returns: site -> dictionary.
    Raises: as `itda.build`; ClusterError; MissingExtraError without Ray.
    """
    how, rest = split_options(options)
    request, of_capture = split_build_options(rest)
    parts = checked_corpus(corpus).parts(how.shards, tokens=tokens)
    source, places = ModelSource.of(model, load, how), None if sites is None else tuple(sites)
    _check_size(request, how.shards)
    options_of_capture = checked(CaptureOptions, of_capture)
    run = {
        "model": source.facts, "corpus": corpus.fingerprint, "sites": places, "tokens": tokens, "shards": how.shards,
        "build": request.facts(), "capture": asdict(options_of_capture),
    }  # fmt: skip
    with connected(how) as cluster, results_in(folder, cluster, run) as kept:
        survey = surveyed(cluster, source, parts, places, options_of_capture, tokens, kept=kept.folder / "survey")
        width, rows = survey.width, survey.rows
        work = BuildPart(
            model=source, parts=parts, sites=survey.sites, capture=survey.capture, tokens=survey.shares,
            request=_for_a_part(request, width, rows, how.shards), folder=kept.folder, every=every,
        )  # fmt: skip
        mapped(cluster, work, kept.missing(range(how.shards)), "build", progress)
        return {name: _merged(kept.folder, how.shards, name, request, width, rows) for name in survey.sites}


def build_stored(
    stored: RowsOnDisk,
    *,
    folder: str | Path | None = None,
    every: float = 60.0,
    progress: bool = True,
    **options: Any,
) -> Dictionary:
    """Build a dictionary from those of the entries of a capture that was made in parts; otherwise as `build_many`.

    Args:
        stored: what `capture` gave, or `Store.open`; `shards` is the number of its parts.
        folder, every, progress, options: as for `build_many`.
    Raises: OptionError for a capture in one piece; as `itda.build_from_activations`; ClusterError; MissingExtraError.
    """
    if not isinstance(stored, JoinedActivations):
        raise OptionError(
            "Workers build from a capture in parts, a part each. This one is in one piece: capture with shards "
            "(itda capture --shards 8), or build without workers."
        )
    entries = tuple(part.folder.resolve() for part in stored.parts)
    if "shards" in options:
        raise OptionError("A capture has as many shards as it was made with. Leave out shards=.")
    how, rest = split_options({**options, "shards": len(entries)})
    request = checked(BuildRequest, rest)
    _check_size(request, how.shards)
    run = {"rows": stored.fingerprint, "build": request.facts()}
    with connected(how) as cluster, results_in(folder, cluster, run) as kept:
        part = _for_a_part(request, stored.width, len(stored), how.shards)
        work = BuildStoredPart(entries=entries, request=part, folder=kept.folder, every=every)
        mapped(cluster, work, kept.missing(range(how.shards)), "build", progress)
        return _merged(kept.folder, how.shards, stored.site, request, stored.width, len(stored))


def _check_size(request: BuildRequest, shards: int) -> None:
    """Refuse what a merge could not do, before any work is done for it."""
    if request.method in NAMELESS:
        raise OptionError(f"Dictionaries of method={request.method!r} cannot be merged: their atoms have no names.")
    steps = request.coding.steps if request.coding else request.steps
    if request.atoms is not None and steps is not None and steps > request.atoms:
        raise OptionError(
            f"steps={steps} is more than the {request.atoms} atoms asked for. Lower steps, or ask for more atoms."
        )
    if request.method == "paper" and request.atoms is None and shards > 1:
        raise OptionError(
            "Parts that were built to the paper's threshold are merged to a size, since the rule has none for atoms of "
            "other parts. Give atoms=, or build without workers."
        )


def _for_a_part(request: BuildRequest, width: int, rows: int, shards: int) -> BuildRequest:
    """What is asked of each part: together more atoms than are kept."""
    wanted = _wanted(request, width, rows)
    if wanted is None or shards == 1:
        return replace(request, atoms=wanted)
    return replace(request, atoms=max(request.coding_for(width).steps, math.ceil(_OVERSAMPLED * wanted / shards)))


def _wanted(request: BuildRequest, width: int, rows: int) -> int | None:
    """How many atoms are kept in the end; None where a threshold says."""
    if request.atoms is None and request.max_unexplained is None and request.max_cosine_gap is None:
        return default_atoms(width, rows, request.coding_for(width))
    return request.atoms


def _merged(folder: Path, shards: int, site: str, request: BuildRequest, width: int, rows: int) -> Dictionary:
    """One dictionary of those of all parts, of which never more than the atoms are held together."""
    if shards == 1:
        return results.loaded(folder, 0, lambda place: load_built(place, site))[0]
    parts, samples = [], []
    means: TokenMeansAccumulator | None = None
    for number in range(shards):
        part, sample = results.loaded(folder, number, lambda place: load_built(place, site))
        samples.append(sample[:: math.ceil(len(sample) * shards / _SAMPLE)].clone())
        if part.token_means is not None:
            means = means or TokenMeansAccumulator(part.width)
            means.add(part.token_means)
        parts.append(replace(part, token_means=None))
    wanted = _wanted(request, width, rows)
    if wanted is None:
        merged = merge(parts, max_unexplained=request.max_unexplained)
        unexplained = round(float(merged.encode(torch.cat(samples)).unexplained.mean()), 6)
        merged = replace(merged, build=replace(merged.build, unexplained=unexplained))
    else:
        merged = merge(parts, atoms=min(wanted, sum(map(len, parts))), rows=torch.cat(samples))
        if len(merged) < wanted:
            note = (
                f"Only {len(merged):,} of {wanted:,} atoms could be taken: the others of the parts are "
                "repeats of these or sums of them, or no row of the sample needs them."
            )
            merged = replace(merged, build=replace(merged.build, notes=(*merged.build.notes, note)))
    return replace(merged, token_means=means.finish() if means else None)

"""Steps in which every part of the text is read by itself, and what comes of it is put together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from itda.capturing import CaptureOptions
from itda.data.corpus import Corpus, checked_corpus
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.encoding import Encoding
from itda.data.entries import StoredActivations
from itda.data.joined import JoinedActivations
from itda.data.store import Store
from itda.encoding import capture_options_of
from itda.errors import OptionError
from itda.evaluation import Report, Tally, held_out_of
from itda.models.loading import Model
from itda.options import checked, whole
from itda.pursuit import Coding
from itda.scale import results
from itda.scale.cluster import connected
from itda.scale.shares import mapped, results_in, split_options, surveyed
from itda.scale.tasks import CapturePart, EncodePart, EvaluatePart, ModelSource


def capture(
    model: str | Path | Model,
    corpus: Corpus,
    site: str | Sequence[str] | None = None,
    *,
    store: str | Path | Store,
    tokens: int | None = None,
    dtype: str | None = None,
    every: float = 60.0,
    load: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Any:
    """Take activations into a store, each part of the corpus into an entry of its own.

    Args:
        model: a name or folder, which every worker loads; or a model, which is sent to them.
        corpus, site, store, dtype, every, progress: as for `itda.capture`.
        tokens: how many rows of all parts together; all by default.
        load: options of `load_model` for a name.
        options: fields of `CaptureOptions` and of `ScaleOptions`.
    Returns: JoinedActivations, which read as one; {site: JoinedActivations} for several sites.
    Raises: as `itda.capture`; ClusterError; MissingExtraError without Ray.
    """
    how, rest = split_options(options)
    place = store if isinstance(store, Store) else Store(store, create=True)
    one = site is None or isinstance(site, str)
    sites = (site,) if isinstance(site, str) else None if site is None else tuple(site)
    parts = checked_corpus(corpus).parts(how.shards, tokens=tokens)
    source, options_of_capture = ModelSource.of(model, load, how), checked(CaptureOptions, rest)
    facts = [source.facts, corpus.fingerprint, sites, asdict(options_of_capture), tokens, how.shards]
    kept = place.survey(facts)
    with connected(how) as cluster:
        survey = surveyed(cluster, source, parts, sites, options_of_capture, tokens, kept=kept)
        work = CapturePart(
            model=source, parts=parts, sites=survey.sites, capture=survey.capture, tokens=survey.shares,
            store=place.folder.resolve(), dtype=dtype, every=every,
        )  # fmt: skip
        found = mapped(cluster, work, range(how.shards), "capture", progress)
    joined = {
        name: JoinedActivations([StoredActivations(found[number][name]) for number in range(how.shards)])
        for name in found[0]
    }
    return next(iter(joined.values())) if one else joined


def encode(
    dictionary: Dictionary,
    model: str | Path | Model,
    corpus: Corpus,
    *,
    tokens: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    load: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Encoding:
    """Write the activations of a corpus as codes, part by part.

    Args:
        dictionary, corpus, seed: as for `itda.encode`.
        model, tokens, folder, load, progress: as for `build_many`.
        options: what else `itda.encode` takes, and fields of `ScaleOptions`.
    Returns: codes and sources of all rows, one part after the other.
    Raises: as `itda.encode`; ClusterError; MissingExtraError without Ray.
    """
    how, rest = split_options(options)
    checked_dictionary(dictionary)
    source, parts = ModelSource.of(model, load, how), checked_corpus(corpus).parts(how.shards, tokens=tokens)
    of_capture = {name: value for name, value in rest.items() if name in CaptureOptions.__dataclass_fields__}
    run = {
        "dictionary": dictionary.fingerprint, "model": source.facts, "corpus": corpus.fingerprint, "tokens": tokens,
        "shards": how.shards, "seed": seed,
        "options": {name: str(value) for name, value in rest.items() if name != "memory"},
    }  # fmt: skip
    with connected(how) as cluster, results_in(folder, cluster, run) as kept:
        shares: tuple[int | None, ...] = (None,) * how.shards
        if tokens is not None:
            asked = capture_options_of(dictionary, {**of_capture, "seed": seed})
            site = dictionary.site if dictionary.provenance else rest.get("site")
            sites, survey = (site,) if site else None, kept.folder / "survey"
            shares = surveyed(cluster, source, parts, sites, asked, tokens, kept=survey).shares
        work = EncodePart(
            model=source, parts=parts, dictionary=dictionary, options={**rest, "seed": seed}, tokens=shares,
            folder=kept.folder,
        )  # fmt: skip
        mapped(cluster, work, kept.missing(range(how.shards)), "encode", progress)
        return Encoding.joined(
            [
                results.loaded(kept.folder, number, lambda place: Encoding.load(place / "encoding"))
                for number in range(how.shards)
            ]
        )


def evaluate(
    dictionary: Dictionary,
    model: str | Path | Model,
    corpus: Corpus,
    *,
    tokens: int | None = 20_000,
    steps: int | None = None,
    coding: Coding | None = None,
    site: str | None = None,
    baselines: bool = True,
    seed: int = 0,
    resamples: int = 1000,
    check_model: bool = True,
    backend: str = "auto",
    memory: int | str | None = None,
    folder: str | Path | None = None,
    load: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Report:
    """Measure a dictionary on documents it was not built from, part by part.

    Args:
        model, folder, load, progress: as for `build_many`.
        options: fields of `ScaleOptions`.
        dictionary, corpus, ...: all others as for `itda.evaluate`.
    Raises: as `itda.evaluate`; ClusterError; MissingExtraError without Ray.
    """
    how, rest = split_options(options)
    if rest:
        raise OptionError(f"There is no option {', '.join(map(repr, rest))}.")
    resamples = whole("resamples", resamples)
    checked_dictionary(dictionary)
    held_out, excluded = held_out_of(dictionary, checked_corpus(corpus))
    source, parts = ModelSource.of(model, load, how), held_out.parts(how.shards, tokens=tokens)
    measured: dict[str, Any] = {
        "site": site, "check_model": check_model, "tokens": None if tokens is None else math.ceil(tokens / how.shards),
        "steps": steps, "coding": coding, "baselines": baselines, "seed": seed, "backend": backend, "memory": memory,
    }  # fmt: skip
    run = {
        **measured, "coding": coding and coding.to_dict(), "memory": None, "dictionary": dictionary.fingerprint,
        "model": source.facts, "corpus": held_out.fingerprint, "shards": how.shards,
    }  # fmt: skip
    with connected(how) as cluster, results_in(folder, cluster, run) as kept:
        work = EvaluatePart(model=source, parts=parts, dictionary=dictionary, folder=kept.folder, **measured)
        mapped(cluster, work, kept.missing(range(how.shards)), "evaluate", progress)
        tallies = (
            results.loaded(kept.folder, number, lambda place: Tally.load(place / "tally"))
            for number in range(how.shards)
        )
        tally = next(tallies)
        for other in tallies:
            tally.add(other)
        said = results.facts(results.place_of_part(kept.folder, 0))
        return tally.report(model=said["model"], site=said["site"], excluded=excluded, resamples=resamples, seed=seed)

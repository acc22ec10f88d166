"""Corpus + model -> activations of some sites, each with its source."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from itda import progress as progress_bars
from itda.capturing.generating import capture_generation
from itda.capturing.options import CaptureOptions
from itda.capturing.position import Position
from itda.capturing.running import Capture, FewerRowsWarning, decomposed, window_length
from itda.capturing.sampling import in_groups, whole_windows
from itda.capturing.storing import capture_into, finished
from itda.data.activations import Activations, Block
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary
from itda.data.sources import Sources
from itda.data.store import Store
from itda.errors import CorpusError, OptionError
from itda.models.loading import Model, checked_model
from itda.options import checked, listed, seconds

__all__ = [
    "Capture",
    "CaptureOptions",
    "FewerRowsWarning",
    "Position",
    "capture",
    "capture_at_most",
    "capture_generation",
    "capture_like",
    "decomposed",
    "in_groups",
    "whole_windows",
    "window_length",
]


def capture(
    model: Model,
    corpus: Corpus,
    site: str | Sequence[str] | None = None,
    *,
    store: str | Path | Store | None = None,
    dtype: str | None = None,
    every: float = 60.0,
    progress: bool = True,
    **options: Any,
) -> Any:
    """Take activations from a model as it reads a corpus.

    With a store, rows go to disk as they come. The same capture again, after whatever stopped it, goes on from
    where it was and ends with the same files; once complete it costs a reading of the text.

    Args:
        model: from `load_model` or `wrap`.
        corpus: what it reads.
        site: a place such as `resid_post.2` (the middle layer by default), or several, taken in one pass.
        store: keep them there, a folder or a Store; made if there is nothing.
        dtype: what the store keeps rows as: `float16`, `bfloat16` or `float32`; that of the model by default.
        every: seconds after which a capture into a store makes safe what it has.
        progress: draw a bar on stderr.
        options: fields of `CaptureOptions`: tokens, window, bos, special_tokens, sinks, ...
    Returns: Activations (rows float32 (N, D), sources), or {site: Activations} for several sites;
        StoredActivations with a store.
    Raises: SiteError, CorpusError, ModelError, OptionError; ActivationError for NaN or infinity; with a store also
        OutputError, FormatError, and MismatchError if it was begun when the model had other weights.
    """
    sites = [checked_model(model).middle_site] if site is None else [site] if isinstance(site, str) else site
    run = Capture(model, corpus, listed("site", sites), checked(CaptureOptions, options))
    names = [place.name for place in run.sites]
    one = site is None or isinstance(site, str)
    if store is not None:
        seconds("every", every)
        place = store if isinstance(store, Store) else Store(store, create=True)
        kept = dtype or str(model.dtype).removeprefix("torch.")
        stored = finished(place, run, dtype=kept)
        if stored is None:
            with progress_bars.bar("capture", run.total, show=progress) as advance:
                stored = capture_into(place, run, dtype=kept, every=every, advance=advance)
        return stored[names[0]] if one else stored
    if dtype is not None:
        raise OptionError("dtype= is what a store keeps rows as; give store= with it, or leave it out.")
    blocks: dict[str, list[Block]] = {name: [] for name in names}
    with progress_bars.bar("capture", run.total, show=progress) as advance:
        for block in run:
            for name, part in block.items():
                blocks[name].append(part)
                advance(len(part.rows) / len(names))
    found = {
        name: Activations(
            torch.cat([part.rows for part in parts]),
            Sources.concatenate(part.sources for part in parts),
            run.provenance(name),
            run.documents,
        )
        for name, parts in blocks.items()
    }
    return found[names[0]] if one else found


def capture_like(
    dictionary: Dictionary, model: Model, corpus: Corpus, *, tokens: int | None = None, seed: int = 0,
    check_model: bool = True, progress: bool = True,
) -> Activations:  # fmt: skip
    """Take activations from other text in the way that a dictionary's own were taken.

    Args:
        dictionary: built from a model's activations.
        model: the one it was built on.
        corpus: other text.
        tokens: how many rows; all there are if they are fewer, or for None.
        seed: which ones.
        check_model: refuse a model with other weights.
        progress: draw a bar on stderr.
    Raises: OptionError for a dictionary of a bare array; MismatchError; CorpusError for text without tokens.
    """
    checked_model(model)
    if dictionary.provenance is None:
        raise OptionError("This dictionary was built from a bare array: nothing says how its rows were captured.")
    if check_model:
        dictionary.provenance.model.check_same(model.record, "This dictionary")
    known = {field.name for field in fields(CaptureOptions)} - {"tokens", "seed", "canonical", "batch_size"}
    options = {name: value for name, value in dictionary.provenance.capture.items() if name in known}
    return capture_at_most(tokens, model, corpus, dictionary.site, **options, seed=seed, progress=progress)


def capture_at_most(
    tokens: int | None, model: Model, corpus: Corpus, site: str, *, progress: bool = True, **options: Any
) -> Activations:
    """Take so many activations from text that may not have as many: then all there are.

    Args and raises: as `capture`.
    """
    try:
        if tokens is not None:
            _ = Capture(model, corpus, [site], checked(CaptureOptions, options | {"tokens": tokens})).total
    except CorpusError:  # fewer than asked for, or none at all, which the capture of all says
        tokens = None
    found: Activations = capture(model, corpus, site, **options, tokens=tokens, progress=progress)
    return found

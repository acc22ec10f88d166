"""How alike all layers of several models are, from one pass of each model over the same text."""

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement, product
from typing import Any, NamedTuple

import numpy as np
import torch

from itda import progress as progress_bars
from itda.capturing import capture
from itda.compare.common_places import at_common_places
from itda.compare.layer_matching import LayerMatrix
from itda.compare.linear_measures import Pair
from itda.compare.overlaps import kinds_of
from itda.compare.representations import Representation
from itda.compare.similarities import Known, Measure, alike, measures, named
from itda.data.activations import Activations
from itda.data.corpus import Corpus, checked_corpus
from itda.data.sources import Sources
from itda.errors import ActivationError, CorpusError, OptionError, ShapeError
from itda.models.loading import Model, checked_model
from itda.models.sites import KINDS
from itda.options import flag, seed_number, whole

Place = tuple[str, int, int]
"""Document id, where the window starts, the number of the token: one token in one context."""


class Layer(NamedTuple):
    """Activations of one place of one model, at places that all models have."""

    model: str
    site: str
    activations: Activations
    common: float
    """Share of the tokens read at which tokens of all models end; 1 with one tokenizer."""


def layer_matrix(
    models: Sequence[Model] | Mapping[str, Model], corpus: Corpus, *, measure: str, **options: Any
) -> LayerMatrix:
    """How alike all layers of some models are, by one measure.

    Args: as `layer_matrices`, but for `measure`: one name.
    Raises: as `layer_matrices`.
    """
    return layer_matrices(models, corpus, measures=[measure], **options)[measure]


def layer_matrices(
    models: Sequence[Model] | Mapping[str, Model],
    corpus: Corpus,
    *,
    measures: Sequence[str] | None = None,
    sites: str | Sequence[str] = "resid_post",
    tokens: int = 20_000,
    atoms: int | None = None,
    whiten: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, LayerMatrix]:
    """How alike all layers of some models are, by several measures; each model reads the text once.

    Args:
        models: from `load_model` or `wrap`; a mapping gives them names, which are their ids otherwise.
        corpus: what they read.
        measures: names out of `compare.measures()`; all by default.
        sites: a kind of place, such as `resid_post` (at each layer of each model), or names of places that all have.
        tokens: rows, each at the end of a token of every model, with the same context.
        atoms: for `overlap`, no dictionary of a layer has more: the 21 scales of `compare.PRESET` on so many rows at a
            time, near and far ones, in place of all rows at once, which tells layers apart better.
        whiten: give every direction with variance the same first.
        seed: which tokens.
        progress: draw bars on stderr.
    Returns: measure -> LayerMatrix; NaN where a measure cannot be computed, and `facts["missing"]` says why.
    Raises: OptionError; SiteError for a place that a model does not have; CorpusError for too little text.
    """
    wanted, seed = _wanted(measures), seed_number(seed)
    flag("whiten", whiten)
    if atoms is not None:
        atoms = whole("atoms", atoms)
    layers = layers_at_common_places(models, corpus, sites=sites, tokens=tokens, seed=seed, progress=progress)
    facts = {"corpus": corpus.fingerprint, "tokens": len(layers[0].activations), "seed": seed}
    facts["common"] = layers[0].common
    found = between_layers(layers, wanted, atoms=atoms, whiten=whiten, progress=progress)
    for matrix in found.values():
        matrix.facts.update(facts)
    return found


def between_layers(
    layers: Sequence[Layer], wanted: Sequence[Measure], *, atoms: int | None, whiten: bool, progress: bool
) -> dict[str, LayerMatrix]:
    """How alike layers at the same places are."""
    kinds = kinds_of(*(layer.activations.sources for layer in layers))
    known = [Known(Representation.of(layer.activations, whiten=whiten), kinds, atoms=atoms) for layer in layers]
    count = len(layers)
    values = {measure.name: np.full((count, count), np.nan) for measure in wanted}
    missing: dict[str, str] = {}
    with progress_bars.bar("compare", count * count, show=progress) as advance:
        for row, column in combinations_with_replacement(range(count), 2):
            pair = Pair(known[row].representation, known[column].representation)
            both = [(row, column, pair), (column, row, pair.swapped)][: 1 + (row != column)]
            for measure, (first, second, seen) in product(wanted, both):
                table = values[measure.name]
                if measure.symmetric and first > second:
                    table[first, second] = table[second, first]
                    continue
                try:
                    table[first, second] = alike(measure, seen, known[first], known[second])
                except (ShapeError, ActivationError) as error:
                    missing.setdefault(measure.name, str(error))
            advance(len(both))
    facts: dict[str, Any] = {} if atoms is None else {"atoms": atoms}
    return {
        name: LayerMatrix(
            measure=name,
            models=tuple(layer.model for layer in layers),
            sites=tuple(layer.site for layer in layers),
            values=table,
            whiten=whiten,
            facts=facts | ({"missing": missing[name]} if name in missing else {}),
        )
        for name, table in values.items()
    }


def layers_at_common_places(
    models: Sequence[Model] | Mapping[str, Model],
    corpus: Corpus,
    *,
    sites: str | Sequence[str],
    tokens: int,
    seed: int,
    progress: bool,
) -> list[Layer]:
    """All layers of all models, one model after the other, at the same places of the same text, in the same order.

    Raises: as `layer_matrices`.
    """
    tokens = whole("tokens", tokens)
    seed = seed_number(seed)
    checked_corpus(corpus)
    by_name = _by_name(models)
    where = {name: _sites(model, sites) for name, model in by_name.items()}
    if len({model.record.tokenizer for model in by_name.values()}) > 1:
        with progress_bars.bar("read", None, show=progress):
            read, share = at_common_places(by_name, where, corpus, tokens=tokens, seed=seed)
        return [Layer(name, site, one, share) for name, found in read.items() for site, one in found.items()]
    layers = [
        Layer(name, site, activations, 1.0)
        for name, model in by_name.items()
        for site, activations in capture(
            model, corpus, where[name], tokens=tokens, seed=seed, progress=progress
        ).items()
    ]
    # Sinks were left out by each model and place for itself, and other tokens taken
    places = [_places(layer.activations.sources) for layer in layers]
    common = set(places[0]).intersection(*places[1:])
    kept = [place for place in places[0] if place in common]
    if not kept:
        raise CorpusError(f"No token of {corpus.name} is read by every model in the same window. Give more text.")
    return [
        layer._replace(activations=layer.activations.select(torch.tensor([own[place] for place in kept])))
        for layer, own in zip(layers, places, strict=True)
    ]


def _wanted(names: Sequence[str] | None) -> list[Measure]:
    if isinstance(names, str) or (names is not None and not names):
        raise OptionError(f"measures must be a list of names. Got {names!r}; use layer_matrix for one.")
    return [named(name) for name in (measures() if names is None else names)]


def _by_name(models: Sequence[Model] | Mapping[str, Model]) -> dict[str, Model]:
    if not isinstance(models, Mapping | Sequence):
        raise OptionError(f"models must be a list or a mapping of models. Got {type(models).__name__}.")
    if not isinstance(models, Mapping):
        given = [checked_model(model) for model in models]
        models = {model.id: model for model in given}
        if len(models) < len(given):
            raise OptionError("Two of these models have one name. Name them: {'first': model, 'second': other}.")
    if not models:
        raise OptionError("models must hold at least one model. Got none.")
    return {name: checked_model(model) for name, model in models.items()}


def _sites(model: Model, sites: str | Sequence[str]) -> list[str]:
    if not isinstance(sites, str | Sequence) or not sites:
        raise OptionError(f"sites must be one of {', '.join(KINDS)}, or a list of places. Got {sites!r}.")
    if not isinstance(sites, str):
        return [model.site(site).name for site in sites]
    if sites not in KINDS:
        raise OptionError(f"sites must be one of {', '.join(KINDS)}, or a list of places. Got {sites!r}.")
    found = [site.name for site in model.sites() if site.name.startswith(f"{sites}.")]
    return found or [model.site(f"{sites}.0").name]  # which says what places there are


def _places(sources: Sources) -> dict[Place, int]:
    """Which row each place has."""
    windows = sources.windows
    return {
        (windows[window].document, windows[window].start, token): row
        for row, (window, token) in enumerate(zip(sources.window.tolist(), sources.token_index.tolist(), strict=True))
    }

"""How alike all layers of several models are, from one pass of each model over the same text."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement, product
from typing import Any, NamedTuple

import numpy as np
import torch

from itda import progress as progress_bars
from itda.capturing import capture
from itda.capturing.sampling import cut, ranked
from itda.compare.layer_matching import LayerMatrix
from itda.compare.linear_measures import Pair
from itda.compare.overlaps import kinds_of
from itda.compare.representations import Representation, sampled
from itda.compare.similarities import Known, Measure, alike, measures, named
from itda.data.activations import Activations
from itda.data.corpus import Corpus
from itda.data.sources import Sources
from itda.errors import ActivationError, CorpusError, OptionError, ShapeError
from itda.models.loading import Model, checked_model
from itda.models.sites import KINDS
from itda.options import flag, seed_number, whole

_AT_FIRST = 64  # documents
Place = tuple[str, int, int]
"""Document id, where the window starts, where the token ends: one token in one context, whatever the tokenizer."""


class Layer(NamedTuple):
    """Activations of one place of one model, at places that all models have."""

    model: str
    site: str
    activations: Activations


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
        atoms: for `overlap`, one dictionary of about so many for each layer, in place of the 21 of `compare.PRESET`.
        whiten: give every direction with variance the same first.
        seed: which tokens.
        progress: draw bars on stderr.
    Returns: measure -> LayerMatrix; NaN where a measure cannot be computed, and `facts["missing"]` says why.
    Raises: OptionError; SiteError for a place that a model does not have; CorpusError for too little text.
    """
    wanted = _wanted(measures)
    flag("whiten", whiten)
    if atoms is not None:
        whole("atoms", atoms)
    layers = layers_at_common_places(models, corpus, sites=sites, tokens=tokens, seed=seed, progress=progress)
    facts = {"corpus": corpus.fingerprint, "tokens": len(layers[0].activations), "seed": seed}
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
    whole("tokens", tokens)
    seed_number(seed)
    by_name = _by_name(models)
    one_tokenizer = len({model.record.tokenizer for model in by_name.values()}) == 1
    if not one_tokenizer:
        corpus = _with_enough_common(by_name, corpus, tokens, seed)
    found = []
    for name, model in by_name.items():
        wanted = tokens if one_tokenizer else None
        rows = capture(model, corpus, _sites(model, sites), tokens=wanted, seed=seed, progress=progress)
        found += [Layer(name, site, activations) for site, activations in rows.items()]
    where = [_places(layer.activations.sources) for layer in found]
    common = set(where[0]).intersection(*where[1:])
    order = [place for place in where[0] if place in common]
    kept = [order[index] for index in sampled(len(order), tokens).tolist()]
    if not kept:
        raise CorpusError(f"No token of {corpus.name} ends where one of every model does. Give more or longer texts.")
    return [
        layer._replace(activations=layer.activations.select(torch.tensor([places[place] for place in kept])))
        for layer, places in zip(found, where, strict=True)
    ]


def _wanted(names: Sequence[str] | None) -> list[Measure]:
    if isinstance(names, str):
        raise OptionError(f"measures must be a list of names. Got {names!r}; use layer_matrix for one.")
    return [named(name) for name in (measures() if names is None else names)]


def _by_name(models: Sequence[Model] | Mapping[str, Model]) -> dict[str, Model]:
    if not isinstance(models, Mapping):
        given = [checked_model(model) for model in models]
        models = {model.id: model for model in given}
        if len(models) < len(given):
            raise OptionError("Two of these models have one name. Name them: {'first': model, 'second': other}.")
    if not models:
        raise OptionError("models must hold at least one model. Got none.")
    return {name: checked_model(model) for name, model in models.items()}


def _sites(model: Model, sites: str | Sequence[str]) -> list[str]:
    if not isinstance(sites, str):
        return [model.site(site).name for site in sites]
    if sites not in KINDS:
        raise OptionError(f"sites must be one of {', '.join(KINDS)}, or a list of places. Got {sites!r}.")
    found = [site.name for site in model.sites() if site.name.startswith(f"{sites}.")]
    return found or [model.site(f"{sites}.0").name]  # which says what places there are


def _places(sources: Sources) -> dict[Place, int]:
    """Where the row of each place is; of several tokens that end there, the last."""
    windows = sources.windows
    return {
        (windows[window].document, windows[window].start, end): row
        for row, (window, end) in enumerate(zip(sources.window.tolist(), sources.char_end.tolist(), strict=True))
    }


def _with_enough_common(models: Mapping[str, Model], corpus: Corpus, tokens: int, seed: int) -> Corpus:
    """So many documents that tokens of all models end at enough common places, or all there are."""
    order, chosen, common = ranked(corpus.ids, seed), set[str](), 0
    while len(chosen) < len(order) and common < tokens:
        group = set(order[len(chosen) : 2 * len(chosen) + _AT_FIRST])
        ends: dict[str, list[set[tuple[int, int]]]] = defaultdict(list)
        for model in models.values():
            for document, windows in cut(model, corpus, group, length=model.window, bos=None):
                ends[document.id].append({(window.start, end) for window in windows for end in window.ends.tolist()})
        common += sum(len(set.intersection(*sets)) for sets in ends.values() if len(sets) == len(models))
        chosen |= group
    return Corpus(lambda: (document.text for document in corpus if document.id in chosen), corpus.name)

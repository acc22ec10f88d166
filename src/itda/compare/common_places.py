"""Places at which tokens of several tokenizers end, each in the same text for every model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from itda.capturing.sampling import cut, ranked
from itda.compare.places import ends_of, read_at, stretches_of_text
from itda.compare.representations import sampled
from itda.data.activations import Activations
from itda.data.corpus import Corpus
from itda.data.provenance import Provenance
from itda.data.sources import Sources, Window
from itda.errors import CorpusError
from itda.models.loading import Model

_AT_FIRST = 64  # documents
_SINK_RATIO = 10.0  # of the median norm, as a capture has it


def at_common_places(
    models: Mapping[str, Model], sites: Mapping[str, Sequence[str]], corpus: Corpus, *, tokens: int, seed: int
) -> tuple[dict[str, dict[str, Activations]], float]:
    """Activations of models with several tokenizers, at the same places of the same windows of text.

    Windows are those of the model that sees the least text at once, so every model has the same context. Places where
    any model has a sink are left out.

    Args:
        models: by name.
        sites: places of each.
        corpus: what they read.
        tokens: places.
        seed: which documents.
    Returns: model -> site -> Activations, row i of all at one place; and at what share of the tokens of the model
        whose windows they are all others have an end too.
    Raises: CorpusError for fewer places than were asked.
    """
    order = ranked(corpus.ids, seed)
    reader = min(models.values(), key=lambda model: _characters_a_window(model, corpus, set(order[:_AT_FIRST])))
    others = {model.record.tokenizer: model for model in models.values()}
    others.pop(reader.record.tokenizer)
    parts: list[Sources] = []
    chosen, seen, count = 0, 0, 0
    while chosen < len(order) and count < tokens:
        group = set(order[chosen : 2 * chosen + _AT_FIRST])
        chosen += len(group)
        everything = _all_tokens(reader, corpus, group)
        common = everything.select(_ends_everywhere(everything, list(others.values())))
        seen, count = seen + len(everything), count + len(common)
        parts.append(common)
    if count < tokens:
        raise CorpusError(
            f"{corpus.name} has {count:,} places at which a token of every model ends. Got tokens={tokens:,}; ask for "
            "fewer, or give more text."
        )
    sources = Sources.concatenate(parts).select(sampled(count, tokens))
    named = Provenance(
        model=reader.record, site="", corpus=corpus.fingerprint, corpus_name=corpus.name, part=corpus.part, heads=None,
        capture={"tokens": tokens, "window": reader.window, "bos": None, "seed": seed},
    )  # fmt: skip
    found = {name: dict(_read(model, sites[name], sources, corpus, named)) for name, model in models.items()}
    usual = torch.ones(tokens, dtype=torch.bool)
    for activations in (one for of_model in found.values() for one in of_model.values()):
        norms = torch.linalg.vector_norm(activations.rows, dim=1)
        usual &= norms <= _SINK_RATIO * norms.median()
    kept = torch.nonzero(usual)[:, 0]
    return {
        name: {site: one.select(kept) for site, one in of_model.items()} for name, of_model in found.items()
    }, count / seen


def _read(
    model: Model, sites: Sequence[str], sources: Sources, corpus: Corpus, named: Provenance
) -> Iterator[tuple[str, Activations]]:
    _, rows, own = read_at(model, sites, sources, corpus, named)
    documents = tuple(dict.fromkeys(window.document for window in own.windows))
    for site, values in rows.items():
        provenance = replace(named, model=model.record, site=site, heads=model.site(site).heads)
        yield site, Activations(values, own, provenance, documents)


def _characters_a_window(model: Model, corpus: Corpus, some: set[str]) -> float:
    cuts = cut(model, corpus, some, length=model.window, bos=None)
    return float(np.mean([part.end - part.start for _, parts in cuts for part in parts[:1]]))


def _all_tokens(model: Model, corpus: Corpus, some: set[str]) -> Sources:
    """Every token of some documents that stands for text."""
    windows, columns = list[Window](), [np.empty((5, 0), np.int64)]
    for document, parts in cut(model, corpus, some, length=model.window, bos=None):
        for part in parts:
            own = ~part.special
            window = np.full(int(own.sum()), len(windows))
            columns.append(np.stack([window, part.starts[own], part.ends[own], part.token_ids[own], part.index[own]]))
            windows.append(Window(document.id, part.start, document.text[part.start : part.end]))
    window, start, end, token_id, index = torch.from_numpy(np.concatenate(columns, axis=1))
    return Sources(torch.arange(len(window)), window, start, end, token_id, index, tuple(windows), {})


def _ends_everywhere(sources: Sources, models: Sequence[Model]) -> torch.Tensor:
    """int64: the places at which a token of each of the models ends too; of several at one character, the last."""
    last = {
        place: row for row, place in enumerate(zip(sources.window.tolist(), sources.char_end.tolist(), strict=True))
    }
    numbers = {window: number for number, window in enumerate(sources.windows)}
    for model in models:
        there = {
            (numbers[stretch.window], end)
            for stretch in stretches_of_text(model, sources.windows)
            for end in ends_of(stretch)
        }
        last = {place: row for place, row in last.items() if place in there}
    return torch.tensor(sorted(last.values()), dtype=torch.int64)

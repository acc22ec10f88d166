"""The same places of the same texts in another model: by token where the tokenizer is the same, else by character."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from itda.capturing import in_groups, window_length
from itda.capturing.sampling import cut
from itda.data.corpus import Corpus
from itda.data.provenance import Provenance
from itda.data.sources import Sources, Window
from itda.errors import MismatchError
from itda.models import tokenizing
from itda.models.loading import Model
from itda.models.tokenizing import CANONICAL_BATCH, TokenWindow

_LONGEST = 1024  # tokens of a window that another tokenizer cuts finer


class Stretch(NamedTuple):
    """A window of text as another model reads it."""

    window: Window
    part: TokenWindow
    first: int
    """Character of the document from which those of `part` are counted."""
    after: int
    """Character of the document up to which places are read in an earlier stretch of the window."""


class Reading(NamedTuple):
    """One forward pass over some stretches, and which places are where in it."""

    inputs: dict[str, Tensor]
    stretches: tuple[Stretch, ...]
    """The first sequences of the batch; the others only fill it."""
    places: Tensor
    """int64 (n,): of the places that were asked for, those in it at which a token ends."""
    sequences: Tensor
    tokens: Tensor
    """int64 (n,): where each is in the batch."""

    @property
    def sources(self) -> Sources:
        """The model's own tokens at these places."""
        columns: list[tuple[int, int, int, int]] = []
        for sequence, token in zip(self.sequences.tolist(), self.tokens.tolist(), strict=True):
            _, part, first, _ = self.stretches[sequence]
            ends = int(part.starts[token]) + first, int(part.ends[token]) + first
            columns.append((*ends, int(part.token_ids[token]), int(part.index[token])))
        start, end, token_id, index = torch.tensor(columns, dtype=torch.int64).reshape(-1, 4).T
        windows = tuple(stretch.window for stretch in self.stretches)
        return Sources(self.places, self.sequences, start, end, token_id, index, windows, {})


def readings(model: Model, sources: Sources, corpus: Corpus, named: Provenance) -> Iterator[Reading]:
    """Read the texts in which some places are with another model, in the same context.

    With the same tokenizer texts are cut as they were, so each place is the same token in the same window. Otherwise
    the model reads the text of each window by itself, and a place is the last of its tokens that ends there.

    Args:
        model: the other model.
        sources: the places.
        corpus: has the documents that they are in.
        named: where the places come from: with which tokenizer, and how texts were cut.
    Raises: MismatchError for documents that the corpus does not have.
    """
    needed = {window.document for window in sources.windows}
    absent = needed.difference(corpus.ids)
    if absent:
        raise MismatchError(
            f"{len(absent):,} of the {len(needed):,} documents that these atoms or rows come from are not in "
            f"{corpus.name}. Give the corpus that they were taken from."
        )
    of_window: dict[Window, list[int]] = defaultdict(list)
    for place, window in enumerate(sources.window.tolist()):
        of_window[sources.windows[window]].append(place)
    length = window_length(model, named.capture)
    alike = model.record.tokenizer == named.model.tokenizer and named.capture.get("window") in (None, length)
    if alike:
        stretches = _as_cut_before(model, corpus, of_window, length, named.capture.get("bos"))
    else:
        stretches = stretches_of_text(model, of_window)
    for group in in_groups(stretches, CANONICAL_BATCH):
        parts = [stretch.part for stretch in group]
        if alike:
            inputs = tokenizing.canonical_batch(model, parts, length=length)
        else:
            inputs = tokenizing.batch(model, parts, length=None)
        found = []
        for sequence, stretch in enumerate(group):
            tokens = _tokens(stretch, alike)
            keys = ((place, _key(sources, place, alike)) for place in of_window[stretch.window])
            found += [(place, sequence, tokens[key]) for place, key in keys if key in tokens]
        yield Reading(inputs, group, *torch.tensor(found, dtype=torch.int64).reshape(-1, 3).T)


def read_at(
    model: Model, sites: Sequence[str], sources: Sources, corpus: Corpus, named: Provenance
) -> tuple[Tensor, dict[str, Tensor], Sources]:
    """The activations of another model at some places, from one pass.

    Args: as `readings`; sites: where in the model.
    Returns: the places at which one of its tokens ends too, int64 (n,), ascending; site -> float32 (n, D); its tokens.
    """
    where = [model.site(site) for site in sites]
    rows: dict[str, list[Tensor]] = {site.name: [] for site in where}
    places, tokens = [], []
    for reading in readings(model, sources, corpus, named):
        for name, values in model.read(reading.inputs, where).items():
            rows[name].append(values[reading.sequences, reading.tokens].float().cpu())
        places.append(reading.places)
        tokens.append(reading.sources)
    order = torch.argsort(torch.cat(places))
    found = {name: torch.cat(parts)[order] for name, parts in rows.items()}
    return torch.cat(places)[order], found, Sources.concatenate(tokens).select(order)


def _as_cut_before(
    model: Model, corpus: Corpus, wanted: Mapping[Window, Any], length: int, bos: bool | None
) -> Iterator[Stretch]:
    known = {(window.document, window.start): window for window in wanted}
    for document, parts in cut(model, corpus, {window.document for window in wanted}, length=length, bos=bos):
        for part in parts:
            if (document.id, part.start) in known:
                yield Stretch(known[document.id, part.start], part, 0, 0)


def stretches_of_text(model: Model, wanted: Iterable[Window]) -> Iterator[Stretch]:
    """Windows as a model with another tokenizer reads them; a text that is too long for it in several stretches."""
    length = min(model.positions, _LONGEST)
    for group in in_groups(wanted, CANONICAL_BATCH):
        cuts = tokenizing.windows(model, [window.text for window in group], length=length)
        for window, parts in zip(group, cuts, strict=True):
            if parts:
                yield Stretch(window, parts[0], window.start, window.start)
                yield from _rest(model, window, parts, length)


def _rest(model: Model, window: Window, parts: Sequence[TokenWindow], length: int) -> Iterator[Stretch]:
    """What comes after the first stretch; each begins half a length before it, so that no place is without context."""
    starts = np.concatenate([part.starts[~part.special] for part in parts])
    ends = np.concatenate([part.ends[~part.special] for part in parts])
    end = int(parts[0].ends.max())
    while end < ends[-1]:
        begin = int(starts[max(0, int((ends <= end).sum()) - length // 2)])
        part = tokenizing.windows(model, [window.text[begin:]], length=length)[0][0]
        yield Stretch(window, part, window.start + begin, window.start + end)
        if begin + int(part.ends.max()) <= end:  # a single token longer than all that can be read
            return
        end = begin + int(part.ends.max())


def _tokens(stretch: Stretch, alike: bool) -> dict[tuple[int, int], int]:
    """Where each token is, by what names it; of several that end at one character, the last."""
    part = stretch.part
    if alike:
        return {key: token for token, key in enumerate(zip(part.index.tolist(), part.token_ids.tolist(), strict=True))}
    return {(end, 0): token for end, token in ends_of(stretch).items()}


def ends_of(stretch: Stretch) -> dict[int, int]:
    """Which token ends at each character of the document, of those that are read here; the last if several do."""
    ends = (stretch.part.ends + stretch.first).tolist()
    return {end: token for token, end in enumerate(ends) if end > stretch.after and not stretch.part.special[token]}


def _key(sources: Sources, place: int, alike: bool) -> tuple[int, int]:
    if alike:
        return int(sources.token_index[place]), int(sources.token_id[place])
    return int(sources.char_end[place]), 0

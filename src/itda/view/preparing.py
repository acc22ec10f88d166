"""Dictionary + model + text -> the records that its pages are made of."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.capturing import decomposed, in_groups, whole_windows, window_length
from itda.data.corpus import Corpus, checked_corpus
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.mixtures import Ingredient
from itda.data.sources import Window
from itda.errors import CorpusError, ModelError, OptionError
from itda.evaluation.effects import ablate
from itda.evaluation.held_out import evaluate, held_out_of
from itda.evaluation.logit_lens import logit_lens
from itda.explaining import place_of
from itda.models import tokenizing
from itda.models.loading import Model
from itda.options import seed_number, whole
from itda.pursuit import Codes
from itda.view.atom_map import atom_map
from itda.view.records import Array, Records, Texts

_NEAREST = 12
_LENS = 10
_ATOMS_AT_ONCE = 4096
_OWN_TEXT = "the texts that its atoms come from"
_NO_EFFECTS = (
    "No effect of atoms on predictions was measured, and no fidelity: for both there must be text that the dictionary "
    "was not built from. Give a corpus with such documents."
)


class _Read(NamedTuple):
    """A text as codes."""

    windows: list[Window]
    tokens: Array
    """int32 (N, 3): window and characters of each token."""
    codes: Codes | None
    corpus: str
    held_out: Corpus | None


def prepare(
    dictionary: Dictionary,
    model: Model | None = None,
    corpus: Corpus | None = None,
    *,
    name: str = "dictionary",
    tokens: int | None = 100_000,
    held_out_tokens: int = 5_000,
    effects: int = 0,
    site: str | None = None,
    seed: int = 0,
    check_model: bool = True,
    progress: bool = True,
) -> Records:
    """Make what the pages of a dictionary show.

    Args:
        dictionary: what is shown.
        model: the model it was built on; without it there are no contexts, only where atoms come from.
        corpus: text in which atoms are looked for; by default the stretches that the atoms come from.
        name: what the dictionary is called on pages.
        tokens: read about so many, in whole windows, spread evenly over the documents; None for all.
        held_out_tokens: measure fidelity on about so many of documents it was not built from, if the corpus has any.
        effects: leave out so many of the most used atoms, one at a time, to see what changes at the output.
        site: where, for a dictionary that was built from a bare array.
        seed: which windows, and the map.
        check_model: refuse a model with other weights than the dictionary's.
        progress: draw bars on stderr.
    Returns: the records; `.save(folder)` puts them beside the dictionary that was saved there.
    Raises: CorpusError, MismatchError, ModelError, OptionError.
    """
    checked_dictionary(dictionary)
    seed = seed_number(seed)
    held_out_tokens = whole("held_out_tokens", held_out_tokens)
    tokens = None if tokens is None else whole("tokens", tokens)
    effects = whole("effects", effects, least=0)
    if model is None and corpus is not None:
        raise OptionError("Atoms are looked for in a text by running the model. Give the model with the corpus.")
    where = None if model is None else place_of(dictionary, model, site, check_model)
    text = None if corpus is None else checked_corpus(corpus)
    read = _Read([], np.zeros((0, 3), np.int32), None, "", None)
    if model is not None and where is not None and (text is not None or _has_texts(dictionary)):
        read = _read(dictionary, model, where, text, tokens, seed, progress)
    facts: dict[str, Any] = {
        **dictionary.facts(), "name": name, "fingerprint": dictionary.fingerprint, "text": read.corpus,
        "by_example": dictionary.by_example, "predicts": bool(model is not None and model.predicts), "report": None,
        "site": where or (dictionary.site if dictionary.provenance else None),
        "asked": {"corpus": text.fingerprint if text else None, "tokens": tokens, "effects": effects, "seed": seed},
    }  # fmt: skip
    left_out: dict[str, Any] = {}
    if effects and model is not None and model.predicts and read.held_out is None:
        warnings.warn(_NO_EFFECTS, stacklevel=2)
    if model is not None and read.held_out is not None:
        report = evaluate(
            dictionary, model, read.held_out, tokens=held_out_tokens, site=site, seed=seed, check_model=False,
            progress=progress,
        )  # fmt: skip
        facts["report"] = report.to_json()
        if effects and model.predicts:
            left_out = _effects(dictionary, model, read, effects, site, progress)
    lens = _lens(dictionary, model, site, progress)
    windows, arrays = _texts(dictionary, read.windows)
    with progress_bars.bar("map and neighbours", 2, show=progress) as advance:
        places, facts["map"] = atom_map(dictionary.atoms, seed)
        advance(1)
        nearest, cosines = _nearest(dictionary.atoms)
        advance(1)
    return Records(
        facts=facts, windows=Texts.of([window.text for window in windows]),
        documents=_ids(windows), window_starts=np.array([window.start for window in windows], np.int64),
        tokens=_shifted(read.tokens, len(windows) - len(read.windows)), **arrays,
        **_by_atom(read.codes, len(dictionary)),
        nearest=nearest, cosines=cosines, places=places.numpy(), **lens,
        heads=dictionary.head_shares.numpy() if dictionary.provenance and dictionary.provenance.heads
        else np.zeros((len(dictionary), 0), np.float32),
        effects=left_out,
    )  # fmt: skip


def _has_texts(dictionary: Dictionary) -> bool:
    """Whether there is text around its atoms; a dictionary may be passed on without."""
    return any(window.text.strip() for window in dictionary.sources.windows)


def _read(
    dictionary: Dictionary,
    model: Model,
    site: str,
    corpus: Corpus | None,
    tokens: int | None,
    seed: int,
    progress: bool,
) -> _Read:
    """Codes of whole windows of a text."""
    captured: Mapping[str, Any] = dictionary.provenance.capture if dictionary.provenance else {}
    own = corpus is None
    text = corpus or Corpus.from_texts([window.text for window in dictionary.sources.windows], name=_OWN_TEXT)
    length, place = window_length(model, captured), model.site(site)
    chosen = whole_windows(
        model, text, tokens=tokens, length=length, bos=captured.get("bos"), seed=seed,
        roles=captured.get("roles"),
    )  # fmt: skip
    windows: list[Window] = []
    rows, codes = [], []
    with progress_bars.bar("read contexts", len(chosen), show=progress) as advance:
        for group in in_groups(chosen, tokenizing.CANONICAL_BATCH):
            values = model.read(tokenizing.batch(model, [part for _, part in group], length=None), [place])[place.name]
            for (document, part), found in zip(group, values, strict=True):
                states = found[: len(part)].float().cpu()
                keep = decomposed(part, states, captured).numpy()
                characters = np.stack([part.starts - part.start, part.ends - part.start], 1)[keep]
                rows.append(np.column_stack([np.full(len(characters), len(windows)), characters]))
                windows.append(Window(document.id, part.start, document.text[part.start : part.end]))
                codes.append(dictionary.encode(states[torch.from_numpy(keep)]))
            advance(len(group))
    held_out = None
    if not own:
        try:
            held_out, _ = held_out_of(dictionary, text)
        except CorpusError:  # it was built from all of it
            held_out = None
    return _Read(windows, np.concatenate(rows).astype(np.int32), Codes.concatenate(codes), text.name, held_out)


def _by_atom(codes: Codes | None, size: int) -> dict[str, Any]:
    """Codes by row, and the places of each atom in them, the largest coefficients first."""
    if codes is None:
        codes = Codes(torch.full((0, 1), -1, dtype=torch.int32), torch.zeros(0, 1), torch.zeros(0))
    atoms, coefficients = codes.atoms.cpu().numpy(), codes.coefficients.cpu().numpy()
    flat = atoms.ravel()
    order = np.lexsort((-np.abs(coefficients.ravel()), flat))
    order = order[np.searchsorted(flat[order], 0) :]  # unused places hold -1
    offsets = np.concatenate([[0], np.cumsum(np.bincount(flat[order], minlength=size))]).astype(np.int64)
    return {
        "atoms": atoms, "coefficients": coefficients, "unexplained": codes.unexplained.cpu().numpy(),
        "offsets": offsets, "uses": order.astype(np.int64),
    }  # fmt: skip


def _texts(dictionary: Dictionary, read: Sequence[Window]) -> tuple[list[Window], dict[str, Any]]:
    """The windows of atoms before those of codes, and what each atom is made of."""
    mixtures = dictionary.mixtures
    sources = dictionary.sources if mixtures is None else mixtures.sources
    ends, weights, parts, names = [], [], [], []
    place = 0
    for atom in range(len(dictionary)):
        mixed = [Ingredient(1.0, dictionary.sources[atom])] if mixtures is None else mixtures[atom]
        width = 1 if mixtures is None else mixtures.weights.shape[1]
        for number, (weight, source) in enumerate(mixed):
            window = int(sources.window[place + number])
            start = source.row if window < 0 else int(source.char_start or 0) - int(source.window_start or 0)
            end = source.row if window < 0 else int(source.char_end or 0) - int(source.window_start or 0)
            weights.append(weight)
            parts.append((window, start, end))
            names.append(source.token or "")
        place += width
        ends.append(len(parts))
    arrays = {
        "part_ends": np.array(ends, np.int64), "part_weights": np.array(weights, np.float32),
        "parts": np.array(parts, np.int64).reshape(-1, 3), "part_tokens": Texts.of(names),
    }  # fmt: skip
    return [*sources.windows, *read], arrays


def _shifted(tokens: Array, first: int) -> Array:
    moved = tokens.copy()
    moved[:, 0] += first
    return moved


def _ids(windows: Sequence[Window]) -> Array:
    return np.frombuffer(b"".join(bytes.fromhex(window.document) for window in windows), np.uint8).reshape(-1, 16)


def _nearest(atoms: Tensor) -> tuple[Array, Array]:
    """The atoms most like each, of either sign, and the cosines."""
    count = min(_NEAREST, len(atoms) - 1)
    found, cosines = [], []
    for first in range(0, len(atoms), _ATOMS_AT_ONCE):
        alike = atoms[first : first + _ATOMS_AT_ONCE] @ atoms.T
        alike[torch.arange(len(alike)), torch.arange(first, first + len(alike))] = 0  # itself
        order = alike.abs().topk(count).indices
        found.append(order.int())
        cosines.append(alike.gather(1, order))
    return torch.cat(found).numpy(), torch.cat(cosines).numpy()


def _lens(dictionary: Dictionary, model: Model | None, site: str | None, progress: bool) -> dict[str, Any]:
    size = len(dictionary)
    nothing = {
        "lens": np.full((size, 2, 0), -1, np.int32), "lens_values": np.zeros((size, 2, 0), np.float32),
        "words": Texts.of([]),
    }  # fmt: skip
    if model is None or not model.predicts:
        return nothing
    try:
        found = logit_lens(dictionary, model, count=_LENS, site=site, check_model=False, progress=progress)
    except (OptionError, CorpusError, ModelError):  # a site that does not write to the stream
        return nothing
    ids, places = torch.unique(torch.stack([found.raised, found.lowered], 1), return_inverse=True)
    words = [model.tokenizer.decode([token]) for token in ids.tolist()]
    values = torch.stack([found.raises, found.lowers], 1)
    return {"lens": places.int().numpy(), "lens_values": values.numpy(), "words": Texts.of(words)}


def _effects(
    dictionary: Dictionary, model: Model, read: _Read, count: int, site: str | None, progress: bool
) -> dict[str, Any]:
    assert read.codes is not None
    assert read.held_out is not None
    order = torch.argsort(read.codes.usage(len(dictionary)), descending=True, stable=True)[:count]
    found = ablate(
        dictionary, model, read.held_out, atoms=order.tolist(), site=site, check_model=False, progress=progress
    )
    return {str(effect.atom): asdict(effect) for effect in found.atoms}

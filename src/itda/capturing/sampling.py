"""Which documents, windows and tokens are taken when not all are wanted: evenly, and the same for the same seed."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

import numpy as np

from itda.data.corpus import Corpus, Document
from itda.errors import CorpusError
from itda.models import tokenizing
from itda.models.loading import Model
from itda.models.tokenizing import TokenWindow

Item = TypeVar("Item")
Key = TypeVar("Key")
_TEXTS_AT_ONCE, _CHARACTERS_AT_ONCE = 64, 2**20  # handed to the tokenizer together, but for a text that is longer


def cut(
    model: Model,
    corpus: Corpus,
    only: Collection[str] | None,
    *,
    length: int,
    bos: bool | None,
    roles: Collection[str] | None = None,
) -> Iterator[tuple[Document, list[TokenWindow]]]:
    """Each document of a corpus, or those with the ids in `only`, with its windows.

    Tokens of conversations that are of none of the `roles` are outside; of other text none is.
    """
    documents = (document for document in corpus if only is None or document.id in only)
    for group in _together(documents):
        parts = tokenizing.windows(model, [document.text for document in group], length=length, bos=bos)
        for document, windows in zip(group, parts, strict=True):
            if roles is not None and corpus.turns is not None:
                said = [(start, end) for role, start, end in corpus.turns[document.id] if role in roles]
                windows = [window.within(said) for window in windows]
            yield document, windows


def _together(documents: Iterable[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    characters = 0
    for document in documents:
        characters += len(document.text)
        if group and (len(group) == _TEXTS_AT_ONCE or characters > _CHARACTERS_AT_ONCE):
            yield group
            group, characters = [], len(document.text)
        group.append(document)
    if group:
        yield group


def ranked(ids: Iterable[str], seed: int) -> list[str]:
    """The ids in an order that depends on the seed and on each id alone."""
    return sorted(ids, key=lambda id_: number(seed, id_))


def number(seed: int, name: str) -> int:
    """A random-looking number for a name, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest())


def spread(total: int, sizes: Mapping[Key, int]) -> dict[Key, int]:
    """Share `total` rows evenly over documents, none giving more than it has; the first get what is left over."""
    shares = dict.fromkeys(sizes, 0)
    open_ids = list(sizes)
    while total:
        level = total // len(open_ids)
        if level == 0:
            for id_ in open_ids[:total]:
                shares[id_] += 1
            break
        for id_ in open_ids:
            given = min(level, sizes[id_] - shares[id_])
            shares[id_] += given
            total -= given
        open_ids = [id_ for id_ in open_ids if shares[id_] < sizes[id_]]
    return shares


def whole_windows(
    model: Model,
    corpus: Corpus,
    *,
    tokens: int | None,
    length: int,
    bos: bool | None,
    seed: int,
    roles: Collection[str] | None = None,
) -> list[tuple[Document, TokenWindow]]:
    """About `tokens` tokens of a corpus in whole windows, spread evenly over the documents; all for None.

    Raises: CorpusError if there is not one token.
    """
    order = ranked(corpus.ids, seed)
    # One window of each of so many documents is enough, unless they are very short: no need to cut the rest.
    for enough in (None,) if tokens is None else (max(64, tokens // 16), None):
        candidates = order[:enough]
        lengths = {
            document.id: [len(part) for part in parts]
            for document, parts in cut(model, corpus, set(candidates), length=length, bos=bos)
            if parts
        }
        if tokens is None or sum(map(sum, lengths.values())) >= tokens:
            break
    if not lengths:
        raise CorpusError(f"The corpus {corpus.name} gives no token to look at.")
    places = {id_: np.random.default_rng(number(seed, id_)).permutation(len(sizes)) for id_, sizes in lengths.items()}
    chosen: set[tuple[str, int]] = set()
    left = sum(map(sum, lengths.values())) if tokens is None else tokens
    turn, going = 0, [id_ for id_ in candidates if id_ in places]
    while going:  # a window of every document before a second of any
        for id_ in going:
            if left > 0:
                place = int(places[id_][turn])
                chosen.add((id_, place))
                left -= lengths[id_][place]
        turn += 1
        going = [id_ for id_ in going if turn < len(places[id_])] if left > 0 else []
    taken = {id_ for id_, _ in chosen}
    return [
        (document, part)
        for document, parts in cut(model, corpus, taken, length=length, bos=bos, roles=roles)
        for place, part in enumerate(parts)
        if (document.id, place) in chosen
    ]


def in_groups(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """The items in groups of `size`, the last one smaller (itertools.batched of Python 3.12)."""
    rest = iter(items)
    return iter(lambda: tuple(islice(rest, size)), ())

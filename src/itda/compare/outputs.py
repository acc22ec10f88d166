"""Where the predictions of two models differ, and which atoms are at work there."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from itda.capturing import decomposed, in_groups, whole_windows, window_length
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary
from itda.models import tokenizing
from itda.models.loading import Model
from itda.models.losses import divergence, likelier_words, predict
from itda.shown import printable

BEFORE, AFTER = 80, 30
"""Characters that are shown around a token."""
_WORDS = 10
_DRAWN = 10  # usual tokens by which the mean of a rare atom is drawn to the usual one


class Place(NamedTuple):
    """A token at which two models differ."""

    before: str
    token: str
    after: str
    document: str
    difference: float
    """KL(second || first) of the next token, nats; for models that predict none, the distance of activations over the
    usual length of one."""
    likelier: str
    """The token whose log-probability rose the most there, weighted by how likely it is now; empty without
    predictions."""


class Outputs(NamedTuple):
    """How predictions of the second model differ from those of the first, over held-out text."""

    kl: float
    """KL(second || first), mean over tokens, nats."""
    tokens: int
    raised: tuple[tuple[str, float], ...]
    """Tokens by the rise of their mean log-probability: the difference of logits."""
    lowered: tuple[tuple[str, float], ...]
    by_atom: Tensor
    """float64 (A,): mean KL at the tokens whose code of the second model's activation has the atom; of a rare
    one, drawn to the mean as by ten usual tokens."""
    places: tuple[Place, ...]
    """Where it is largest, one for each document."""


def compare_outputs(
    first: Model, second: Model, corpus: Corpus, dictionary: Dictionary, site: str, *, tokens: int, shown: int,
    seed: int,
) -> Outputs:  # fmt: skip
    """Run both models on whole windows of a corpus.

    Args:
        first, second: with one tokenizer; both predict a next token.
        corpus: what they read.
        dictionary: whose atoms are asked about.
        site: where in the second model.
        tokens: about how many.
        shown: places that are returned.
        seed: which windows.
    """
    captured = dictionary.provenance.capture if dictionary.provenance else {}
    length = window_length(first, captured)
    windows = whole_windows(first, corpus, tokens=tokens, length=length, bos=captured.get("bos"), seed=seed)
    place = second.site(site)
    sums = torch.zeros((2, len(dictionary)), dtype=torch.float64)
    words: Tensor | float = 0.0
    total, count = 0.0, 0
    best: dict[str, Place] = {}
    for group in in_groups(windows, tokenizing.CANONICAL_BATCH):
        inputs = tokenizing.batch(first, [part for _, part in group], length=None)
        before, after = predict(first, inputs), predict(second, inputs)
        far = divergence(after, before)
        rows = second.read(inputs, [place])[site].float().cpu()
        for index, (document, part) in enumerate(group):
            ends = len(part) - 1  # the last token predicts nothing that is known
            if ends < 1:
                continue
            own = far[index, :ends].double().cpu()
            change = (after - before)[index, :ends]
            words = words + change.sum(0).cpu().double()
            total, count = total + float(own.sum()), count + ends
            codes = dictionary.encode(rows[index, :ends])
            kept = decomposed(part, rows[index, : len(part)], captured)[:ends]
            used = (codes.atoms >= 0) & kept[:, None]
            which = codes.atoms[used].long()
            sums[0].index_add_(0, which, own[:, None].expand_as(used)[used])
            sums[1].index_add_(0, which, torch.ones(len(which), dtype=torch.float64))
            worst = int(own.argmax())
            if document.id not in best or float(own[worst]) > best[document.id].difference:
                rose = int((after[index, worst].exp() * change[worst]).argmax())
                start, end = int(part.starts[worst]), int(part.ends[worst])
                best[document.id] = Place(
                    *_quoted(document.text, start, end), document.id, float(own[worst]), second.tokenizer.decode([rose])
                )
    assert isinstance(words, Tensor)
    mean = words / max(count, 1)
    return Outputs(
        kl=total / max(count, 1),
        tokens=count,
        raised=likelier_words(second, mean, _WORDS),
        lowered=likelier_words(second, -mean, _WORDS),
        by_atom=(sums[0] + _DRAWN * total / max(count, 1)) / (sums[1] + _DRAWN),
        places=farthest(best.values(), shown),
    )


def _quoted(text: str, start: int, end: int) -> tuple[str, str, str]:
    """What is before a token, the token and what is after, fit to be printed on one line."""
    return (
        printable(text[max(0, start - BEFORE) : start]),
        printable(text[start:end]),
        printable(text[end : end + AFTER]),
    )


def farthest(places: Iterable[Place], shown: int) -> tuple[Place, ...]:
    """The places with the largest difference first."""
    return tuple(sorted(places, key=lambda place: -place.difference)[:shown])

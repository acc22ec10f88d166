"""Activations of whole texts, one or several rows each: what vectors are fitted to."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.capturing import in_groups
from itda.errors import CorpusError, OptionError
from itda.models import tokenizing
from itda.models.loading import Model
from itda.options import is_whole
from itda.shapes import finite

READS = ("last", "mean", "tokens")
_SINK = 10.0  # times the median norm: as captures find sinks


class States(NamedTuple):
    """What a model makes of n texts at some sites."""

    rows: dict[str, Tensor]
    """Site -> float32 (n, D), one row a text; of `tokens` (rows, D), all of them."""
    owner: Tensor
    """int64 (rows,): the text of each row."""
    norms: dict[str, float]
    """Site -> median norm of the activations at all tokens, sinks left out."""


def read_texts(
    model: Model, texts: Sequence[str], sites: Sequence[str], *, read: str | int = "last", progress: bool = True
) -> States:
    """Run a model over texts, each whole in one window.

    Args:
        model: the model.
        texts: what it reads; none may be longer than the model takes.
        sites: the places.
        read: `last`, the last token of each; `mean`, the mean over its tokens (special ones left out); `tokens`, every
            token; or a place, negative from the end.
        progress: draw a bar on stderr.
    Raises: CorpusError for an empty or too long text; OptionError; SiteError.
    """
    if read not in READS and not is_whole(read):
        raise OptionError(f"read must be one of {', '.join(READS)}, or a place. Got {read!r} instead.")
    places = [model.site(name) for name in sites]
    parts = [window_of(model, text) for text in checked_texts(texts)]
    rows: dict[str, list[Tensor]] = {site.name: [] for site in places}
    norms: dict[str, list[Tensor]] = {site.name: [] for site in places}
    owner: list[int] = []
    number = 0
    with progress_bars.bar("read texts", len(parts), show=progress) as advance:
        for group in in_groups(parts, tokenizing.CANONICAL_BATCH):
            found = model.read(tokenizing.batch(model, list(group), length=None), places)
            for place, part in enumerate(group):
                own = rows_read(part, read)
                for name, values in found.items():
                    states = finite(values[place, : len(part)].float().cpu(), f"The activations at {name!r}")
                    norms[name].append(torch.linalg.vector_norm(states, dim=1))
                    rows[name].append(states[own].mean(0, keepdim=True) if read == "mean" else states[own])
                owner += [number] * (1 if read == "mean" else int(own.numel()))
                number += 1
            advance(len(group))
    return States(
        {name: torch.cat(found) for name, found in rows.items()}, torch.tensor(owner),
        {name: median_norm(torch.cat(found)) for name, found in norms.items()},
    )  # fmt: skip


def median_norm(norms: Tensor) -> float:
    """The median of norms, those far above it left out."""
    usual = norms.median()
    return float(norms[norms <= _SINK * usual].median())


def checked_texts(texts: Any) -> Sequence[str]:
    """The texts themselves.

    Raises: CorpusError for what is no list of texts, or has an empty one.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
        raise CorpusError(f"This takes a list of texts that is not empty. Got {type(texts).__name__}.")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise CorpusError(f"Text {number} is empty or no text: {text!r}. Leave it out.")
    return texts


def window_of(model: Model, text: str) -> tokenizing.TokenWindow:
    """A whole text as the model reads it at once.

    Raises: CorpusError for a text without tokens, or longer than the model takes.
    """
    found = tokenizing.windows(model, [text], length=model.positions)[0]
    if not found:
        raise CorpusError(f"The text {text!r} has no token for this model.")
    if len(found) > 1:
        raise CorpusError(
            f"The text that begins {text[:40]!r} has more than the {model.positions} tokens that this model takes. "
            "Shorten it."
        )
    return found[0]


def rows_read(part: tokenizing.TokenWindow, read: str | int) -> Tensor:
    """The tokens of a text that are read, int64 (n,)."""
    own = torch.nonzero(~torch.from_numpy(part.special))[:, 0]
    if not len(own):
        own = torch.arange(len(part))
    if read in ("mean", "tokens"):
        return own
    if read == "last":
        # As every library of the field has it: the very last token, what the tokenizer appends too
        return torch.tensor([len(part) - 1])
    assert not isinstance(read, str)
    if not -len(own) <= read < len(own):
        raise OptionError(f"read={read} is past the {len(own)} tokens of a text. Choose a place that every text has.")
    return own[read][None]

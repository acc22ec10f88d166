"""Which tokens are steered: by name or range, in padded batches, with and without a key-value cache.

A model is called once for a prompt and once for each token that is generated; the mask says what is padding, and how
long the text before a call was. All of it is read off the calls themselves, so `generate` needs no wrapper.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from itda.errors import OptionError

NAMES = ("all", "prompt", "generation", "last")


@dataclass(frozen=True)
class After:
    """The tokens behind the first of a kind; the marking token is not among them."""

    token: int
    """Its id."""


Tokens: TypeAlias = str | int | slice | Sequence[int] | After
"""A name, a place, several, a range, or what comes behind a token."""


def checked_tokens(tokens: Any) -> Tokens:
    """What names tokens.

    Raises: OptionError for anything else.
    """
    if isinstance(tokens, str) and tokens in NAMES:
        return tokens
    if isinstance(tokens, After) and isinstance(tokens.token, int) and tokens.token >= 0:
        return tokens
    if isinstance(tokens, slice) and tokens.step in (None, 1):
        return tokens
    if isinstance(tokens, int) and not isinstance(tokens, bool):
        return tokens
    if isinstance(tokens, list | tuple) and tokens and all(type(place) is int for place in tokens):
        return tuple(tokens)
    raise OptionError(
        f"tokens must be one of {', '.join(NAMES)}, a place, several, a slice, or steer.After(token). Got {tokens!r}."
    )


class Stream:
    """What a model has been called with so far, and where the tokens of the present call are in their texts."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        """`input_ids` (B, T) of the present call, or what has its shape."""
        self.mask = torch.ones(0, 0, dtype=torch.bool)
        """bool (B, T): tokens of the present call that are no padding."""
        self.places = torch.zeros(0, 0, dtype=torch.int64)
        """int64 (B, T): the number of each token in its text, from 0, padding not counted."""
        self._lengths = torch.zeros(0, dtype=torch.int64)  # (B,), of the prompts
        self._prompt = torch.zeros(0, 0, dtype=torch.int64)
        self._seen = torch.zeros(0, 0, dtype=torch.int64)

    def take(self, arguments: dict[str, Any]) -> None:
        """Read off the arguments of a call where it is."""
        ids = arguments.get("input_ids")
        shape = ids if ids is not None else arguments.get("inputs_embeds")
        if shape is None:
            raise OptionError("A steered model is called with input_ids= or inputs_embeds= by name.")
        batch, length = shape.shape[:2]
        given = arguments.get("attention_mask")
        if given is None or given.ndim != 2:
            before = _cached(arguments.get("past_key_values"))
            given = torch.ones(batch, before + length, dtype=torch.int64, device=shape.device)
        real = given.bool()
        self.inputs = {"input_ids": ids if ids is not None else shape[..., 0]}
        self.mask = real[:, -length:]
        self.places = (real.long().cumsum(1) - 1)[:, -length:]
        whole = real.shape[1]
        now = self.inputs["input_ids"]
        if whole > length:  # behind a cache: more of the same text
            self._seen = torch.cat([self._seen, now], 1) if len(self._seen) == batch else now
        else:
            goes_on = self._prompt.shape[0] == batch and 0 < self._prompt.shape[1] < length
            if not (goes_on and torch.equal(now[:, : self._prompt.shape[1]], self._prompt)):
                self._prompt, self._lengths = now, real.sum(1)
            self._seen = now
        if len(self._lengths) != batch:  # the prompt was read before steering began
            self._lengths = real.sum(1) - self.mask.sum(1)

    def chosen(self, tokens: Tokens) -> Tensor:
        """bool (B, T): the tokens of the present call that are meant."""
        lengths = self._lengths[:, None].to(self.places.device)
        mask = self.mask
        if tokens == "all":
            return mask
        if tokens == "prompt":
            return mask & (self.places < lengths)
        if tokens == "generation":
            return mask & (self.places >= lengths)
        if tokens == "last":  # of the prompt, and then each that is generated: the same without a cache
            return mask & (self.places >= lengths - 1)
        if isinstance(tokens, After):
            return mask & self._behind(tokens.token)
        if isinstance(tokens, slice):
            start, stop = (_from_start(end, lengths) for end in (tokens.start, tokens.stop))
            low = mask if start is None else mask & (self.places >= start)
            return low if stop is None else low & (self.places < stop)
        wanted = tokens if isinstance(tokens, tuple) else (tokens,)
        found = torch.zeros_like(mask)
        for place in wanted:
            assert isinstance(place, int)
            found |= self.places == _from_start(place, lengths)
        return mask & found

    def _behind(self, token: int) -> Tensor:
        marks = (self._seen == token).long().cumsum(1)
        earlier = torch.cat([torch.zeros_like(marks[:, :1]), marks[:, :-1]], 1) > 0
        return earlier[:, -self.mask.shape[1] :]


def _from_start(place: int | None, lengths: Tensor) -> int | Tensor | None:
    """A place counted from the start of the text; a negative one is counted from the end of the prompt."""
    return place if place is None or place >= 0 else lengths + place


def _cached(cache: Any) -> int:
    length = getattr(cache, "get_seq_length", None)
    return int(length()) if length is not None else 0


@contextmanager
def following(module: nn.Module) -> Iterator[Stream]:
    """While open, every call of a model is followed."""
    stream = Stream()

    def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        stream.take({"input_ids": arguments[0], **named} if arguments else named)

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield stream
    finally:
        handle.remove()

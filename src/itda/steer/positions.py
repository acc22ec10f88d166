"""Which tokens are steered: by name or range, in padded batches, with and without a key-value cache.

A model is called once for a prompt and once for each token that is generated; the mask says what is padding, and how
long the text before a call was. All of it is read off the calls themselves, so `generate` needs no wrapper. Beams of
one prompt may change places between calls: all that is kept of a prompt is the same for each of its beams, and what
is kept of generated tokens changes places with them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from itda.errors import OptionError
from itda.models.hooks import depth
from itda.options import is_whole

_prompt_lengths: ContextVar[Tensor | None] = ContextVar("prompt_lengths", default=None)
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
    if isinstance(tokens, After) and is_whole(tokens.token) and tokens.token >= 0:
        return After(int(tokens.token))
    if isinstance(tokens, slice) and tokens.step in (None, 1):
        return tokens
    if is_whole(tokens):
        return int(tokens)
    if isinstance(tokens, list | tuple) and tokens and all(map(is_whole, tokens)):
        return tuple(map(int, tokens))
    raise OptionError(
        f"tokens must be one of {', '.join(NAMES)}, a place, several, a slice, or steer.After(token). Got {tokens!r}."
    )


def from_the_end(tokens: Tokens) -> bool:
    """Whether tokens are counted from where a prompt ends."""
    if isinstance(tokens, str):
        return tokens in ("generation", "last")
    if isinstance(tokens, slice):
        return any(end is not None and end < 0 for end in (tokens.start, tokens.stop))
    places = (tokens,) if isinstance(tokens, int) else () if isinstance(tokens, After) else tokens
    return any(place < 0 for place in places)


class Stream:
    """What a model has been called with so far, and where the tokens of the present call are in their texts.

    A call that generates one token takes a millisecond, so what only some selectors need is found when they ask.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        """`input_ids` (B, T) of the present call, or what has its shape."""
        self._mask: Tensor | None = None  # (B, all tokens so far), as it was given
        self._last: Tensor | None = None  # ids of the last call, if it left nothing in a cache
        self._told: Tensor | None = None  # where prompts end, for who knows
        self._before = 0  # tokens of earlier calls that are in the cache
        self._prompt: Tensor | None = None
        self._prompt_mask: Tensor | None = None
        self._calls: list[Tensor] = []  # ids of this text, call by call
        self._cache: Any = None
        self._release: Callable[[], None] | None = None

    def take(self, arguments: dict[str, Any]) -> bool:
        """Read off the arguments of a call where it is; whether it reads new prompts."""
        ids = arguments.get("input_ids")
        shape = ids if ids is not None else arguments.get("inputs_embeds")
        if shape is None:
            raise OptionError("A steered model is called with input_ids= or inputs_embeds= by name.")
        now = ids if ids is not None else shape[..., 0]
        length = shape.shape[1]
        cache = arguments.get("past_key_values")
        self._mask = _read_mask(arguments.get("attention_mask"), length + _cached(cache))
        whole = length + _cached(cache) if self._mask is None else self._mask.shape[1]
        self._before = whole - length
        self.inputs = {"input_ids": now}
        if self._before:  # behind a cache: more of the same text
            self._calls.append(now)
            return False
        self.release()
        self._cache = cache
        without_cache = cache is None
        begins = not (without_cache and self._goes_on(now))
        if begins:
            self._prompt, self._prompt_mask, self._told = now, self._mask, _prompt_lengths.get()
        self._calls, self._last = [now], now if without_cache else None
        return begins

    def _goes_on(self, now: Tensor) -> bool:
        """Whether a call without a cache reads all of the last one again, and the one token that it led to."""
        last = self._last
        if last is None or len(last) != len(now) or last.shape[1] + 1 != now.shape[1]:
            return False
        if torch.equal(now[:, :-1], last):
            return True
        assert self._prompt is not None
        if not torch.equal(now[:, : self._prompt.shape[1]], self._prompt):
            return False
        earlier = set(map(tuple, last.tolist()))  # beams go on from any of the last ones
        return all(tuple(row) in earlier for row in now[:, :-1].tolist())

    @property
    def mask(self) -> Tensor:
        """bool (B, T): tokens of the present call that are no padding."""
        ids = self.inputs["input_ids"]
        if self._mask is None:
            return torch.ones(ids.shape, dtype=torch.bool, device=ids.device)
        return self._mask[:, -ids.shape[1] :].bool()

    @property
    def places(self) -> Tensor:
        """int64 (B, T): the number of each token in its text, from 0, padding not counted."""
        ids = self.inputs["input_ids"]
        if self._mask is None:
            return torch.arange(self._before, self._before + ids.shape[1], device=ids.device).expand(ids.shape)
        return (self._mask.bool().long().cumsum(1) - 1)[:, -ids.shape[1] :]

    @property
    def _lengths(self) -> Tensor:
        """int64 (B, 1): tokens of the prompts."""
        ids = self.inputs["input_ids"]
        if self._told is not None and len(self._told) == len(ids):
            return self._told.to(ids.device)[:, None]
        if self._prompt is None or len(self._prompt) != len(ids):  # the prompt was read before steering began
            return self.places[:, :1]
        if self._prompt_mask is None:
            return torch.full((len(ids), 1), self._prompt.shape[1], device=ids.device)
        return self._prompt_mask.bool().sum(1, keepdim=True)

    def chosen(self, tokens: Tokens) -> Tensor:
        """bool (B, T): the tokens of the present call that are meant."""
        mask = self.mask
        if tokens == "all":
            return mask
        places, lengths = self.places, self._lengths
        if tokens == "prompt":
            return mask & (places < lengths)
        if tokens == "generation":
            return mask & (places >= lengths)
        if tokens == "last":  # of the prompt, and then each that is generated: the same without a cache
            return mask & (places >= lengths - 1)
        if isinstance(tokens, After):
            return mask & self._behind(tokens.token)
        if isinstance(tokens, slice):
            start, stop = (_from_start(end, lengths) for end in (tokens.start, tokens.stop))
            low = mask if start is None else mask & (places >= start)
            return low if stop is None else low & (places < stop)
        wanted = tokens if isinstance(tokens, tuple) else (tokens,)
        found = torch.zeros_like(mask)
        for place in wanted:
            assert isinstance(place, int)
            found |= places == _from_start(place, lengths)
        return mask & found

    @property
    def prompt(self) -> Tensor:
        """bool (B, T): tokens of the present call that are of the prompts."""
        return self.mask & (self.places < self._lengths)

    def owners(self, tokens: Tokens) -> Tensor:
        """int64 (n,): which text of the batch each of those tokens is in, in their order."""
        return torch.nonzero(self.chosen(tokens))[:, 0].cpu()

    def _behind(self, token: int) -> Tensor:
        if self._release is None and hasattr(self._cache, "reorder_cache"):
            self._release = self._reordering(self._cache)
        seen = torch.cat(self._calls, 1)
        marks = (seen == token).long().cumsum(1)
        earlier = torch.cat([torch.zeros_like(marks[:, :1]), marks[:, :-1]], 1) > 0
        return earlier[:, -self.inputs["input_ids"].shape[1] :]

    def _reordering(self, cache: Any) -> Callable[[], None]:
        """Let what was generated change places when the texts of a cache do; what ends that."""
        own = cache.reorder_cache

        def reorder(order: Tensor) -> Any:
            self._calls = [ids[order.to(ids.device)] for ids in self._calls]
            return own(order)

        had_its_own = "reorder_cache" in vars(cache)
        cache.reorder_cache = reorder
        return lambda: setattr(cache, "reorder_cache", own) if had_its_own else delattr(cache, "reorder_cache")

    def release(self) -> None:
        """Leave the cache as it was found."""
        if self._release is not None:
            self._release()
        self._cache = self._release = None


def _from_start(place: int | None, lengths: Tensor) -> int | Tensor | None:
    """A place counted from the start of the text; a negative one is counted from the end of the prompt."""
    return place if place is None or place >= 0 else lengths + place


def _cached(cache: Any) -> int:
    length = getattr(cache, "get_seq_length", None)
    return int(length()) if length is not None else 0


def _read_mask(mask: Any, tokens: int) -> Tensor | None:
    """What is no padding of all tokens so far, (B, tokens), or None if nothing is said about it.

    With a cache of a fixed size `generate` gives what each token attends to (B, 1, T, places of the cache), for each
    kind of layer: the last token attends to all that is no padding.

    Raises: OptionError for another mask.
    """
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", mask)
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return mask
    if isinstance(mask, Tensor) and mask.ndim == 4:
        attended = mask[:, 0, -1, :tokens]
        return attended if attended.dtype == torch.bool else attended >= 0
    raise OptionError(
        f"Steering reads padding off an attention mask (B, T), or off what each token attends to. Got "
        f"{type(mask).__name__}: generate without cache_implementation=, or load the model with "
        'attn_implementation="sdpa".'
    )


@contextmanager
def prompts_end(lengths: Sequence[int]) -> Iterator[None]:
    """While open, texts that a model is called with have a prompt of so many tokens each, and go on behind it.

    A call alone cannot say so: what is measured on a continuation is steered as it would be while it is generated.
    """
    token = _prompt_lengths.set(torch.tensor(list(lengths)))
    try:
        yield
    finally:
        _prompt_lengths.reset(token)


@contextmanager
def following(module: nn.Module, begins: Callable[[Stream, dict[str, Any]], None] | None = None) -> Iterator[Stream]:
    """While open, every call of a model is followed.

    Args:
        module: the model.
        begins: called with the arguments of every call that reads new prompts, before the model is.
    """
    stream, own = Stream(), depth()

    def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if depth() != own:
            return
        given = {"input_ids": arguments[0], **named} if arguments else named
        if stream.take(given) and begins is not None:
            begins(stream, given)

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield stream
    finally:
        handle.remove()
        stream.release()

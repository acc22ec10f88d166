"""How activations are taken from a model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from itda.errors import OptionError
from itda.options import in_python, is_number, one_of, seed_number, whole


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """How activations are taken from a model."""

    tokens: int | None = None
    """Rows wanted, after padding and dropped tokens, spread evenly over the documents; None for all."""
    window: int | None = None
    """Tokens the model reads at once; by default its positions, at most 128."""
    bos: bool | None = None
    """Begin every window with the begin token (True), never (False), or as the tokenizer does (None)."""
    special_tokens: Literal["drop", "keep"] = "drop"
    """Rows at tokens that stand for no text. They are the same everywhere, or a sink."""
    roles: tuple[str, ...] | None = None
    """Of conversations (`Corpus.from_chats`): take tokens of these roles only, as in `("assistant",)`."""
    sinks: Literal["drop", "keep"] = "drop"
    """Rows whose norm is far above the median: attention sinks, 100 to 1000 times the rest in many models."""
    sink_ratio: float = 10.0
    """How many times the median norm of the site makes a sink."""
    sink_norm: float | Mapping[str, float] | None = None
    """The norm above which a row is a sink, where it is known already, for all sites or by site; found from
    `sink_ratio` by default."""
    batch_size: int = 32
    """Windows in one forward pass where `canonical` is off; it makes no difference otherwise."""
    canonical: bool = True
    """Run forward passes of one fixed shape, so that the same text gives the same bits whatever the batch size."""
    padding_side: Literal["right", "left"] = "right"
    seed: int = 0
    """Which windows and tokens are taken when not all are wanted."""

    def __post_init__(self) -> None:
        in_python(self)
        for name in ("tokens", "window", "batch_size"):
            if getattr(self, name) is not None or name == "batch_size":
                whole(name, getattr(self, name))
        for name in ("special_tokens", "sinks"):
            one_of(name, getattr(self, name), ("drop", "keep"))
        roles: Any = self.roles
        if roles is not None:
            listed = isinstance(roles, list | tuple) and roles
            if not listed or not all(isinstance(one, str) for one in roles):
                raise OptionError(f"roles must be several names, as in ('assistant',). Got {roles!r}.")
            object.__setattr__(self, "roles", tuple(roles))  # a list, as files have it
        one_of("padding_side", self.padding_side, ("right", "left"))
        seed_number(self.seed)
        _above("sink_ratio", self.sink_ratio, 1)
        norms = self.sink_norm.values() if isinstance(self.sink_norm, Mapping) else [self.sink_norm]
        for norm in norms:
            if norm is not None:
                _above("sink_norm", norm, 0)

    def sink_norm_of(self, site: str) -> float | None:
        """The norm above which a row of a site is a sink, if it is known."""
        return self.sink_norm.get(site) if isinstance(self.sink_norm, Mapping) else self.sink_norm


def _above(name: str, value: Any, least: float) -> None:
    if not is_number(value) or not math.isfinite(value) or value <= least:
        raise OptionError(f"{name} must be a finite number above {least}. Got {value!r} instead.")

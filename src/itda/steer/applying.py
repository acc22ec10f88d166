"""A model that is steered while a context is open, and left as it was found."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from itda.models.hooks import editing
from itda.models.loading import Model
from itda.models.sites import Site
from itda.steer.positions import Stream, Tokens, following

Change = Callable[[Tensor], Tensor]
"""What becomes of the activations (n, D) of the tokens that are steered, float32."""
Gate = Callable[[Tensor], Tensor]
"""How much of the change each activation (n, D) gets, float32 (n,): 0 for none, 1 for all."""


@dataclass(frozen=True)
class Steering:
    """What is being done to a model: print it."""

    what: str
    sites: tuple[str, ...]
    tokens: Tokens
    strength: float | None
    unit: str

    def __str__(self) -> str:
        amount = "" if self.strength is None else f", strength {self.strength:g} (1 is {self.unit})"
        return f"{self.what} at {', '.join(self.sites)}, tokens {self.tokens!r}{amount}"


@contextmanager
def steering(
    model: Model, changes: Mapping[str, Change], tokens: Tokens, gate: Gate | None, told: Steering
) -> Iterator[Steering]:
    """While open, activations at some sites are what the changes make of them, at the tokens that are meant.

    It works with every call of the module, `generate` among them, and inside of others of its kind, in the order in
    which they were opened.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(following(model.module))
        for name, change in changes.items():
            stack.enter_context(_edited(model, model.site(name), change, tokens, gate, stream))
        yield told


def _edited(
    model: Model, site: Site, change: Change, tokens: Tokens, gate: Gate | None, stream: Stream
) -> AbstractContextManager[None]:
    def edit(values: Tensor) -> Tensor:
        chosen = stream.chosen(tokens).to(values.device)
        everywhere = bool(chosen.all())
        rows = (values.flatten(0, 1) if everywhere else values[chosen]).float()
        if not len(rows):
            return values
        moved = change(rows)
        if gate is not None:
            moved = torch.lerp(rows, moved, gate(rows)[:, None].to(rows))
        if everywhere:
            return moved.to(values.dtype).view_as(values)
        changed = values.clone()
        changed[chosen] = moved.to(values.dtype)
        return changed

    return editing(model.module, site, edit, _Present(stream))


class _Present(Mapping[str, Tensor]):
    """The inputs of the call that is under way."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getitem__(self, name: str) -> Tensor:
        return self._stream.inputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream.inputs)

    def __len__(self) -> int:
        return len(self._stream.inputs)

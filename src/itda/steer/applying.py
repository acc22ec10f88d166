"""A model that is steered while a context is open, and left as it was found."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from itda.errors import OptionError
from itda.models.hooks import aside, editing
from itda.models.loading import Model
from itda.models.sites import Site
from itda.steer.positions import Stream, Tokens, following

Change = Callable[[Tensor], Tensor]
"""What becomes of the activations (n, D) of the tokens that are steered, float32."""
Gate = Callable[[Tensor], Tensor]
"""How much of the change each activation (n, D) gets, float32 (n,): 0 for none, 1 for all."""
_READ = ("input_ids", "attention_mask", "position_ids", "token_type_ids")  # what a pass to decide by is given


class TextGate(ABC):
    """What decides once for each text, when its prompt is read, how much of the change all its activations get.

    The prompt is read beforehand and unsteered, so that a gate may look at later layers than those that are steered.
    """

    reads: tuple[str, ...]
    """The sites that it looks at."""

    @abstractmethod
    def decide(self, states: Mapping[str, Tensor], ids: Tensor, mask: Tensor) -> Tensor | Mapping[str, Tensor]:
        """How much of the change each text gets.

        Args:
            states: site -> activations (B, T, D) of the prompts.
            ids: int64 (B, T), their tokens.
            mask: bool (B, T), those that are no padding.
        Returns: float32 (B,), or that for each steered site.
        """


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
    model: Model, changes: Mapping[str, Change], tokens: Tokens, gate: Gate | TextGate | None, told: Steering
) -> Iterator[Steering]:
    """While open, activations at some sites are what the changes make of them, at the tokens that are meant.

    It works with every call of the module, `generate` among them, and inside of others of its kind, in the order in
    which they were opened.

    Raises: OptionError on a call that a gate of whole texts cannot decide about.
    """
    decided: dict[str, Tensor] = {}

    def decide(stream: Stream, given: Mapping[str, Any]) -> None:
        assert isinstance(gate, TextGate)
        if given.get("input_ids") is None:
            raise OptionError("A gate of whole texts reads prompts as tokens: call the model with input_ids.")
        inputs = {name: given[name] for name in _READ if given.get(name) is not None}
        with aside():
            states = model.read(inputs, [model.site(name) for name in gate.reads])
        found = gate.decide(states, inputs["input_ids"], stream.mask)
        decided.update({name: found if isinstance(found, Tensor) else found[name] for name in changes})

    def amounts_of(name: str, stream: Stream) -> Gate | None:
        if not isinstance(gate, TextGate):
            return gate

        def amounts(rows: Tensor) -> Tensor:
            if name not in decided:
                raise OptionError("This gate reads the prompt. Begin to steer before the model reads it.")
            own = decided[name][stream.owners(tokens)]
            return own.to(rows)

        return amounts

    with ExitStack() as stack:
        stream = stack.enter_context(following(model.module, decide if isinstance(gate, TextGate) else None))
        for name, change in changes.items():
            amounts = amounts_of(name, stream)
            stack.enter_context(_edited(model, model.site(name), change, tokens, amounts, stream))
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

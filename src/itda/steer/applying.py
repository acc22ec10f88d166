"""A model that is steered while a context is open, and left as it was found."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from itda.errors import OptionError
from itda.models import tokenizing
from itda.models.hooks import aside, depth, editing
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
    def decide(self, states: Mapping[str, Tensor], mask: Tensor, special: Tensor) -> Tensor | Mapping[str, Tensor]:
        """How much of the change each text gets.

        Args:
            states: site -> activations (B, T, D) of the prompts.
            mask: bool (B, T), tokens of the prompts; the others are padding, or go on behind a prompt.
            special: bool (B, T), those of them that stand for no text.
        Returns: float32 (B,), or that for each steered site.
        """

    def check(self, model: Model, sites: Sequence[str]) -> None:  # noqa: B027  # most have nothing to refuse
        """Refuse a model or sites that it cannot decide about.

        Raises: MismatchError.
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
    model: Model,
    changes: Mapping[str, Change],
    tokens: Tokens,
    gate: Gate | TextGate | None,
    told: Steering,
    *,
    check_model: bool = True,
) -> Iterator[Steering]:
    """While open, activations at some sites are what the changes make of them, at the tokens that are meant.

    It works with every call of the module, `generate` among them, and inside of others of its kind, in the order in
    which they were opened.

    Raises: MismatchError for a gate of another model; OptionError for what is no gate, on a call that a gate of whole
        texts cannot decide about, and where predictions become infinite or NaN.
    """
    if gate is not None and not isinstance(gate, TextGate) and not callable(gate):
        raise OptionError(f"when= is a gate, as steer.AtomGate or rules.gate(...). Got {type(gate).__name__}.")
    if isinstance(gate, TextGate) and check_model:
        gate.check(model, tuple(changes))
    decided: dict[str, Tensor] = {}

    def decide(stream: Stream, given: Mapping[str, Any]) -> None:
        assert isinstance(gate, TextGate)
        if given.get("input_ids") is None:
            raise OptionError("A gate of whole texts reads prompts as tokens: call the model with input_ids.")
        inputs = {name: given[name] for name in _READ if given.get(name) is not None}
        mask = stream.prompt
        if "attention_mask" in inputs:
            inputs["attention_mask"] = stream.mask.long()
        specials = torch.from_numpy(tokenizing.special_ids(model)).to(mask.device)
        special = torch.isin(inputs["input_ids"], specials) & mask
        with aside():
            states = model.read(inputs, [model.site(name) for name in gate.reads])
            found = gate.decide(states, mask, special)
        decided.update({name: _checked(found, name, len(mask)) for name in changes})

    def amounts_of(name: str, stream: Stream) -> Gate | None:
        if not isinstance(gate, TextGate):
            return gate

        def amounts(rows: Tensor) -> Tensor:
            if name not in decided:
                raise OptionError("This gate reads the prompt. Begin to steer before the model reads it.")
            owners = stream.owners(tokens)
            if len(stream.mask) != len(decided[name]):
                raise OptionError("This gate read another number of prompts. Give a batch the prompts it began with.")
            own = decided[name][owners]
            return own.to(rows)

        return amounts

    own = depth()

    def watch(_: Any, __: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        # One sum: a single infinite or NaN logit makes it so, and a generated token costs a millisecond
        if depth() == own and logits is not None and not bool(logits[:, -1].sum(dtype=torch.float32).isfinite()):
            raise OptionError(f"Steered so, the model predicts no numbers any more: {told}. Use less strength.")

    with ExitStack() as stack:
        # Before those of contexts around it: what was changed last is the first to be asked
        stack.callback(model.module.register_forward_hook(watch, prepend=True).remove)
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


def _checked(found: Any, name: str, texts: int) -> Tensor:
    """What a gate decided for one site, float32 (B,)."""
    if isinstance(found, Mapping) and name not in found:
        raise OptionError(f"This gate decides about {', '.join(map(str, found)) or 'nothing'}, not about {name}.")
    own = found[name] if isinstance(found, Mapping) else found
    if not isinstance(own, Tensor) or own.shape != (texts,) or not bool(own.isfinite().all()):
        shape = tuple(own.shape) if isinstance(own, Tensor) else type(own).__name__
        raise OptionError(f"A gate of whole texts decides one finite number for each of {texts} texts. Got {shape}.")
    return own.float().cpu()


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

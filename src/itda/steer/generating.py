"""Text from a steered model, for the simple case."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from itda.errors import CorpusError, OptionError
from itda.models.generating import go_on
from itda.models.hooks import inference
from itda.models.loading import Model, checked_model
from itda.options import listed, whole
from itda.steer.applying import Gate, TextGate
from itda.steer.effects import check_predicts
from itda.steer.positions import Tokens
from itda.steer.rules import RuleGate
from itda.steer.vectors import SteeringVector
from itda.texts import clean


class Generated(NamedTuple):
    """A prompt and what the model went on with."""

    prompt: str
    text: str
    steered_by: str
    """What was done to the model; empty if nothing."""
    why: str = ""
    """Which rules fired, where rules decide."""


def generate(
    model: Model,
    prompts: str | Sequence[str],
    vector: SteeringVector | None = None,
    *,
    strength: float = 1.0,
    op: str = "add",
    tokens: Tokens = "all",
    when: Gate | TextGate | None = None,
    max_new_tokens: int = 40,
    **options: Any,
) -> list[Generated]:
    """Let a model go on with some prompts, steered or not.

    Args:
        model: one that predicts a next token.
        prompts: one, or several that are run together.
        vector, strength, op, tokens, when: what steers, as of `SteeringVector.apply`; nothing by default.
        max_new_tokens: at most so many.
        options: of transformers' `generate`; greedy by default.
    Raises: CorpusError for an empty prompt; ModelError; MismatchError; OptionError.
    """
    check_predicts(checked_model(model))
    max_new_tokens = whole("max_new_tokens", max_new_tokens)
    if vector is not None and not isinstance(vector, SteeringVector):
        raise OptionError(f"generate is steered by a steer.SteeringVector. Got {type(vector).__name__}.")
    given = [prompts] if isinstance(prompts, str) else listed("prompts", prompts)
    if not given or not all(isinstance(prompt, str) and prompt for prompt in given):
        raise CorpusError("generate needs prompts that are texts and not empty.")
    encoded = [prompt_ids(model, prompt) for prompt in given]
    length = max(map(len, encoded))
    if length + max_new_tokens > model.positions:
        raise CorpusError(
            f"The longest prompt has {length} tokens, and with {max_new_tokens} more it is past the {model.positions} "
            "that this model takes. Shorten it, or ask for fewer."
        )
    end = model.tokenizer.eos_token_id
    padding = model.tokenizer.pad_token_id if model.tokenizer.pad_token_id is not None else (end or 0)
    ids = torch.full((len(given), length), padding)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(encoded):
        ids[row, length - len(one) :] = torch.tensor(one)
        mask[row, length - len(one) :] = 1
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    steered = nullcontext() if vector is None else vector.apply(model, strength, op=op, tokens=tokens, when=when)
    if options.get("return_dict_in_generate"):
        raise OptionError("generate returns texts. Call model.module.generate inside of vector.apply for more.")
    greedy = {} if "generation_config" in options else {"do_sample": False}  # that says itself how to go on
    chosen = {**greedy, "pad_token_id": padding, **options}
    with inference(model.module), steered as told:
        found = go_on(model, inputs, max_new_tokens, chosen)
    texts = [_continuation(model, row, length) for row in found]
    each = len(texts) // len(given)  # several, with num_return_sequences
    why = [""] * len(texts)
    if vector is not None and isinstance(when, RuleGate):
        why = [str(when.readings[row * len(when.readings) // len(texts)]) for row in range(len(texts))]
    return [Generated(given[row // each], text, str(told or ""), why[row]) for row, text in enumerate(texts)]


def prompt_ids(model: Model, prompt: str) -> list[int]:
    """The tokens of a prompt, without what a tokenizer appends: that ends a text, and nothing would follow it.

    Raises: CorpusError for a prompt without any.
    """
    ids: list[int] = model.tokenizer(clean(prompt, "the prompts"))["input_ids"]
    ids = ids[:-1] if len(ids) > 1 and ids[-1] == model.tokenizer.eos_token_id else ids
    if not ids:
        raise CorpusError(f"The prompt {prompt!r} has no token for this model.")
    return ids


def _continuation(model: Model, ids: torch.Tensor, length: int) -> str:
    """The text behind the first tokens; decoded by themselves, some tokenizers would lose the space before it."""
    whole, before = (model.tokenizer.decode(part, skip_special_tokens=True) for part in (ids, ids[:length]))
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(model.tokenizer.decode(ids[length:], skip_special_tokens=True))

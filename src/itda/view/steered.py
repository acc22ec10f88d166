"""A prompt with and without steering: what the model goes on with, and how far its predictions move."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch

from itda.html import visible, word
from itda.models.loading import Model
from itda.models.losses import divergence, predict
from itda.steer import SteeringVector, generate
from itda.steer.effects import check_predicts
from itda.steer.generating import prompt_ids

_WORDS = 8


class Amount(NamedTuple):
    """A vector and how much of it."""

    vector: SteeringVector
    strength: float


def steered(
    model: Model,
    prompt: str,
    amounts: Sequence[Amount],
    *,
    tokens: str = "all",
    count: int = 40,
    check_model: bool = True,
) -> dict[str, Any]:
    """What the steer page asks for.

    Args:
        model: the vectors' own.
        prompt: what the model goes on with.
        amounts: what steers, all together.
        tokens: which tokens, as of `SteeringVector.apply`.
        count: tokens to generate.
        check_model: refuse vectors of a model with other weights.
    Returns: `before` and `after`, what follows the prompt; `kl`, the mean divergence of the predictions at the prompt's
        tokens, and `kl_next`, at its last, nats; `next_before` and `next_after`, the likeliest next tokens.
    Raises: CorpusError for an empty or too long prompt; MismatchError for a vector of another model; ModelError.
    """
    check_predicts(model)
    before = generate(model, prompt, max_new_tokens=count)[0].text
    ids = torch.tensor([prompt_ids(model, prompt)], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = predict(model, inputs)
    with ExitStack() as stack:
        for vector, strength in amounts:
            stack.enter_context(vector.apply(model, strength, tokens=tokens, check_model=check_model))
        after = generate(model, prompt, max_new_tokens=count)[0].text
        moved = predict(model, inputs)
    own = divergence(plain, moved)[0]
    last = float((plain[0, -1].exp() * (plain[0, -1] - moved[0, -1])).sum())
    return {
        "before": visible(before), "after": visible(after), "kl": float(own.mean()) if len(own) else last,
        "kl_next": last, "next_before": likeliest(model, plain[0, -1]), "next_after": likeliest(model, moved[0, -1]),
    }  # fmt: skip


def likeliest(model: Model, log_probabilities: Any) -> list[tuple[str, float]]:
    """The likeliest tokens and their probabilities, from log-probabilities (vocabulary,)."""
    values, ids = log_probabilities.topk(min(_WORDS, len(log_probabilities)))
    return [
        (word(_named(model, token), 60), round(float(value.exp()), 5))
        for token, value in zip(ids.tolist(), values, strict=True)
    ]


def _named(model: Model, token: int) -> str:
    """The text of a token; where it is nothing by itself, such as the space before a word, its name."""
    found: str = model.tokenizer.decode([token])
    return found or str(model.tokenizer.convert_ids_to_tokens(token)).replace("▁", " ")

"""What a language model predicts, with and without a place replaced."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from itda.models.hooks import Inputs, editing, inference
from itda.models.loading import Model
from itda.models.sites import Site


def predict(
    model: Model, inputs: Inputs, site: Site | None = None, change: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Log-probabilities of the next token, float32 (B, T, vocabulary).

    Args:
        model: a causal language model.
        inputs: `input_ids` (B, T) and what else it takes.
        site, change: replace the activations (B, T, D) at this site on the way.
    """
    editor = nullcontext() if site is None or change is None else editing(model.module, site, change, inputs)
    with inference(model.module), editor:
        return torch.log_softmax(model.module(**inputs).logits.float(), dim=-1)


def next_token_loss(log_probabilities: Tensor, input_ids: Tensor) -> Tensor:
    """Loss in nats of predicting token t + 1 at token t, (B, T - 1)."""
    return -log_probabilities[:, :-1].gather(2, input_ids[:, 1:, None])[:, :, 0]


def divergence(clean: Tensor, changed: Tensor) -> Tensor:
    """KL(clean || changed) in nats at every token that predicts one, (B, T - 1)."""
    clean, changed = clean[:, :-1], changed[:, :-1]
    return (clean.exp() * (clean - changed)).sum(2)


def likelier_words(model: Model, change: Tensor, count: int) -> tuple[tuple[str, float], ...]:
    """The tokens whose log-probability rises the most, with by how much; only those above zero.

    Args:
        model: whose tokens they are.
        change: of log-probabilities, (vocabulary,).
        count: at most so many.
    """
    values, ids = torch.topk(change, min(count, len(change)))
    return tuple(
        (model.tokenizer.decode([token]), float(value))
        for token, value in zip(ids.tolist(), values.tolist(), strict=True)
        if value > 0
    )

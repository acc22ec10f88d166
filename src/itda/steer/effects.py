"""What steering does: to neutral text, and to what it is meant to change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from itda.capturing import in_groups
from itda.errors import CorpusError, ModelError, OptionError
from itda.models import tokenizing
from itda.models.loading import Model
from itda.models.losses import predict
from itda.models.tokenizing import TokenWindow
from itda.options import listed
from itda.steer.positions import After, Tokens, checked_tokens, from_the_end, prompts_end


class Contrast(NamedTuple):
    """Two ways to go on, of which steering should make the first likelier."""

    prompt: str
    target: str
    opposite: str


def checked_contrast(given: Any) -> Contrast:
    """A contrast of three texts.

    Raises: OptionError for anything else.
    """
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 3:
        raise OptionError(f"A contrast is three texts: prompt, target and opposite. Got {given!r:.80}.")
    return Contrast(*given)


@dataclass(frozen=True)
class Neutral:
    """Predictions on text that has nothing to do with what is steered, as means over its tokens."""

    kl: float
    """From the model's own predictions, nats."""
    entropy: float
    """Of the predictions, nats."""
    perplexity: float
    """exp of the next-token loss."""


class NeutralText:
    """Text on which harm is measured, with what the model predicts there by itself.

    Args:
        model: one that predicts a next token, not steered.
        texts: each is read up to as many tokens as the model takes at once.
        tokens: which are steered, as of `SteeringVector.apply`. Where that depends on the end of a prompt, the first
            half of each text is the prompt, and predictions are looked at behind it.
    Raises: CorpusError without any text; ModelError; OptionError where no text has a token that is steered.
    """

    def __init__(self, model: Model, texts: Sequence[str], tokens: Tokens = "all") -> None:
        check_predicts(model)
        tokens = checked_tokens(tokens)
        self._halved = from_the_end(tokens)
        if isinstance(texts, str):
            raise CorpusError("Neutral text is a list of texts. Got one text alone; put it into a list.")
        self._model = model
        given = listed("neutral text", texts)
        self._parts = [part for cut in tokenizing.windows(model, given, length=model.window) for part in cut[:1]]
        least = 4 if self._halved else 2
        self._parts = [part for part in self._parts if len(part) >= least]
        if not self._parts:
            raise CorpusError(f"Neutral text needs at least one text of {least} tokens. Got none.")
        if isinstance(tokens, After) and not any((part.token_ids[:-1] == tokens.token).any() for part in self._parts):
            raise OptionError(f"No neutral text has the token {tokens.token}, so nothing is steered behind it.")
        self._plain = [predict(model, inputs) for inputs, _, _ in self._batches()]

    def measure(self) -> Neutral:
        """The model as it is now, inside of whatever steers it."""
        kl = entropy = loss = count = 0.0
        for (inputs, real, lengths), plain in zip(self._batches(), self._plain, strict=True):
            now = self._predict(inputs, lengths)
            # The last token of a text predicts nothing that is known
            known = real[:, 1:] & self._looked_at(real, lengths)[:, :-1]
            kl += float(((plain.exp() * (plain - now)).sum(2)[:, :-1] * known).sum())
            entropy += float((-(now.exp() * now).sum(2)[:, :-1] * known).sum())
            right = now[:, :-1].gather(2, inputs["input_ids"][:, 1:, None])[:, :, 0]
            loss += float((-right * known).sum())
            count += float(known.sum())
        return Neutral(kl / count, entropy / count, float(torch.tensor(loss / count).exp()))

    def rows(self, site: str) -> Tensor:
        """Activations at a site, float32 (n, D), of all tokens."""
        place = self._model.site(site)
        found = [
            self._model.read(inputs, [place])[place.name][real].float().cpu() for inputs, real, _ in self._batches()
        ]  # fmt: skip
        return torch.cat(found)

    def change(self) -> Tensor:
        """How log-probabilities differ from the model's own, the mean over tokens, float32 (vocabulary,), nats."""
        total, count = torch.zeros(()), 0.0
        for (inputs, real, lengths), plain in zip(self._batches(), self._plain, strict=True):
            here = self._looked_at(real, lengths)
            total = total + ((self._predict(inputs, lengths) - plain) * here[:, :, None]).sum((0, 1)).cpu()
            count += float(here.sum())
        return total / count

    def _predict(self, inputs: dict[str, Tensor], lengths: list[int]) -> Tensor:
        if not self._halved:
            return predict(self._model, inputs)
        with prompts_end([length // 2 for length in lengths]):
            return predict(self._model, inputs)

    def _looked_at(self, real: Tensor, lengths: list[int]) -> Tensor:
        """bool (B, T): tokens whose predictions count; where a prompt ends, from its last one on."""
        if not self._halved:
            return real
        ends = torch.tensor([length // 2 for length in lengths], device=real.device)
        return real & (real.long().cumsum(1) >= ends[:, None])

    def _batches(self) -> list[tuple[dict[str, Tensor], Tensor, list[int]]]:
        found = []
        for group in in_groups(self._parts, tokenizing.CANONICAL_BATCH):
            inputs = tokenizing.batch(self._model, list(group), length=None)
            found.append((inputs, inputs["attention_mask"].bool(), [len(part) for part in group]))
        return found


def log_probabilities(model: Model, texts: Sequence[tuple[str, str]]) -> Tensor:
    """log p(continuation | prompt) in nats, as the model is now, float32 (n,).

    Args:
        model: one that predicts a next token.
        texts: (prompt, continuation); tokens that begin in the continuation are counted.
    Raises: CorpusError for a continuation without tokens, or a text longer than the model takes.
    """
    check_predicts(model)
    parts = [whole_text(model, prompt, continuation) for prompt, continuation in texts]
    found = []
    for group in in_groups(parts, tokenizing.CANONICAL_BATCH):
        inputs = tokenizing.batch(model, [part for part, _ in group], length=None)
        with prompts_end([first for _, first in group]):
            logs = predict(model, inputs)
        right = logs[:, :-1].gather(2, inputs["input_ids"][:, 1:, None])[:, :, 0]
        for row, (part, first) in enumerate(group):
            found.append(right[row, first - 1 : len(part) - 1].sum())
    return torch.stack(found).float().cpu()


def contrast(model: Model, contrasts: Sequence[Contrast]) -> Tensor:
    """log p(target) - log p(opposite) of each, as the model is now, float32 (n,)."""
    if not contrasts:
        raise OptionError("There is no contrast to measure. Give (prompt, target, opposite) texts.")
    sides = [(prompt, side) for prompt, target, opposite in contrasts for side in (target, opposite)]
    found = log_probabilities(model, sides)
    return found[::2] - found[1::2]


def check_predicts(model: Model) -> None:
    """Refuse a model that predicts no token.

    Raises: ModelError.
    """
    if not model.predicts:
        raise ModelError(f"{model.id} predicts no next token, so nothing shows what steering does to that.")


def whole_text(model: Model, prompt: str, continuation: str) -> tuple[TokenWindow, int]:
    """A prompt with what follows it, and the first token that is not all of the prompt's.

    Raises: CorpusError for a continuation without tokens, or a text longer than the model takes.
    """
    cut = tokenizing.windows(model, [prompt + continuation], length=model.positions)[0]
    if len(cut) != 1:
        raise CorpusError(f"The text {(prompt + continuation)[:60]!r} is empty, or longer than the model takes.")
    part = cut[0]
    own = [place for place, end in enumerate(part.ends.tolist()) if end > len(prompt) and not part.special[place]]
    if not own or own[0] == 0:
        raise CorpusError(f"The continuation {continuation!r} of {prompt[-40:]!r} has no token that is predicted.")
    return part, own[0]

"""Texts as windows of tokens that keep their characters, and windows as batches for a model."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itda.errors import ModelError, OptionError
from itda.models.loading import Model
from itda.texts import clean

# Every forward pass has this many sequences by default, whatever the caller's batch: the last bits of an
# activation depend on the shape of the batch. 16 keeps a 70B model's widest layer under 1 GB.
CANONICAL_BATCH = 16
_WORD = "▁"  # what tokenizers of SentencePiece's kind put in the place of a space, and before a text


@dataclass(frozen=True, eq=False)
class TokenWindow:
    """What the model reads at once: T tokens of a text and where each one lies in it."""

    token_ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    """Characters of each token in the text; a special token has no extent, nor has a mark of where a word begins that
    stands alone before its first letter."""
    special: NDArray[np.bool_]
    """Tokens that stand for no text: added by the tokenizer, or written out in it."""
    index: NDArray[np.int64]
    """Place among the text's own tokens; -1 for an added one."""
    start: int
    end: int
    """The characters of the text that the window covers."""
    outside: NDArray[np.bool_] | None = None
    """Tokens that nobody asked for: of conversations, those of other roles; None where there are none."""

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def is_outside(self) -> NDArray[np.bool_]:
        """`outside` of every token."""
        return np.zeros(len(self), np.bool_) if self.outside is None else self.outside

    def within(self, stretches: Sequence[tuple[int, int]]) -> Self:
        """The same, with every token that ends in none of these stretches of characters outside."""
        inside = np.zeros(len(self), np.bool_)
        for start, end in stretches:
            inside |= (self.ends > start) & (self.ends <= end)
        return replace(self, outside=~inside)


def windows(model: Model, texts: Sequence[str], *, length: int, bos: bool | None = None) -> list[list[TokenWindow]]:
    """Cut each text into windows of at most `length` tokens, special ones counted.

    Every window gets the special tokens that the tokenizer adds by itself.

    Args:
        length: tokens the model reads at once.
        bos: begin every window with the begin token (True), never (False), or as the tokenizer does (None).
    Returns: for each text its windows in order; none for a text without tokens.
    Raises: OptionError if a window has no room or is longer than the model takes; ModelError without
        a begin token where one is asked for; CorpusError for what is no text.
    """
    tokenizer = model.tokenizer
    if length > model.positions:
        raise OptionError(f"A window of {length} tokens is longer than the {model.positions} this model takes.")
    begin = tokenizer.bos_token_id
    if bos and begin is None:
        raise ModelError(
            f"The tokenizer of {model.id!r} has no begin token, so bos=True cannot be done. Leave bos out."
        )
    added = tokenizer.num_special_tokens_to_add()
    # Straight to the tokenizer's core: the Python wrapper re-reads its settings, and may warn, at every call.
    core = tokenizer.backend_tokenizer
    room = length - 1 if bos and core.encode("").ids[:1] != [begin] else length
    if room - added < 1:
        raise OptionError(
            f"A window of {length} tokens has no room for text beside {length - room + added} special ones."
        )
    texts = [clean(text, "what is read") for text in texts]
    if not texts:
        return []
    before = core.truncation, core.padding
    try:
        core.enable_truncation(room)
        core.no_padding()
        encodings = core.encode_batch(list(texts), add_special_tokens=True)
    finally:
        core.no_truncation()
        if before[0]:
            core.enable_truncation(**before[0])
        if before[1]:
            core.enable_padding(**before[1])
    literal = special_ids(model)
    largest = max((max(encoding.ids, default=0) for encoding in encodings), default=0)
    if largest >= model.vocabulary:
        raise ModelError(
            f"The tokenizer gives token id {largest}, but the model has embeddings for {model.vocabulary} tokens. "
            "Use the tokenizer of this model."
        )
    found = []
    for encoding in encodings:
        cut: list[TokenWindow] = []
        seen = 0
        for part in (encoding, *encoding.overflowing):
            window = _window(part, seen, literal, core.token_to_id(_WORD), begin, bos)
            if (window.index >= 0).any():
                cut.append(window)
                seen = int(window.index.max()) + 1
        found.append(cut)
    return found


def batch(model: Model, parts: Sequence[TokenWindow], *, length: int | None, side: str = "right") -> dict[str, Tensor]:
    """Inputs of one forward pass over some windows.

    Args:
        length: T that every sequence is padded to; None for that of the longest.
        side: where padding goes.
    Returns: `input_ids` and `attention_mask` (B, T), and `position_ids` where left padding needs them.
    """
    size = length or max(map(len, parts))
    ids = torch.full((len(parts), size), _padding_id(model), dtype=torch.int64)
    mask = torch.zeros((len(parts), size), dtype=torch.int64)
    for row, window in enumerate(parts):
        place = slice(len(window)) if side == "right" else slice(size - len(window), size)
        ids[row, place] = torch.from_numpy(window.token_ids)
        mask[row, place] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    if side == "left" and "position_ids" in _arguments(model):
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0) + model.first_position
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def _arguments(model: Model) -> set[str]:
    """What the model can be told; adapters (PEFT) pass on what they do not name."""
    module: Any = model.module
    own = module.get_base_model() if hasattr(module, "get_base_model") else module
    return set(inspect.signature(own.forward).parameters)


def canonical_batch(
    model: Model, parts: Sequence[TokenWindow], *, length: int, side: Literal["right", "left"] = "right"
) -> dict[str, Tensor]:
    """Inputs of the one shape (CANONICAL_BATCH, length), whatever is in them; filled up with the last window.

    A causal model padded on the right cannot see the padding, so its mask is left full: an attention
    kernel then does the same arithmetic whether or not anything is padded.
    """
    filled = [*parts, *[parts[-1]] * (CANONICAL_BATCH - len(parts))]
    inputs = batch(model, filled, length=length, side=side)
    if side == "right" and model.causal:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    return inputs


def special_ids(model: Model) -> NDArray[np.int64]:
    """Ids of the tokens that stand for no text wherever they are."""
    # Not all_special_ids: a padding token may be any token, and an unknown one stands for text.
    kinds, unknown = model.tokenizer.added_tokens_decoder, model.tokenizer.unk_token_id
    return np.array([token for token, kind in kinds.items() if kind.special and token != unknown], np.int64)


def token_names(model: Model) -> dict[int, str]:
    """Names of the tokens that stand for no text, by id: special ones, and the mark of where a word begins."""
    ids: list[int] = model.tokenizer.all_special_ids
    names = dict(zip(ids, model.tokenizer.convert_ids_to_tokens(ids), strict=True))
    mark = model.tokenizer.backend_tokenizer.token_to_id(_WORD)
    return names if mark is None else {mark: _WORD, **names}


def _padding_id(model: Model) -> int:
    tokenizer = model.tokenizer
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None and candidate < model.vocabulary:
            return int(candidate)
    return 0


def _window(
    encoding: object, seen: int, literal: NDArray[np.int64], mark: int | None, begin: int | None, bos: bool | None
) -> TokenWindow:
    ids = np.array(encoding.ids, np.int64)  # type: ignore[attr-defined]
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)  # type: ignore[attr-defined]
    added = np.array(encoding.special_tokens_mask, np.bool_)  # type: ignore[attr-defined]
    if bos is False and len(ids) and added[0] and ids[0] == begin:
        ids, offsets, added = ids[1:], offsets[1:], added[1:]
    if bos and begin is not None and not (len(ids) and added[0] and ids[0] == begin):
        ids, added = np.insert(ids, 0, begin), np.insert(added, 0, True)
        offsets = np.insert(offsets, 0, 0, axis=0)
    own = offsets[~added]
    start, end = (int(own[0, 0]), int(own[:, 1].max())) if len(own) else (0, 0)
    inner = np.cumsum(~added)
    # An added token lies at the edge of the window it was added to.
    starts = np.where(added, np.where(inner > 0, end, start), offsets[:, 0])
    # The mark that a tokenizer puts before a text has the characters of the token behind it, which is not read yet
    before_another = np.append((offsets[:-1] == offsets[1:]).all(1), False) & (ids == mark)
    ends = np.where(added | before_another, starts, offsets[:, 1])
    index = np.where(added, -1, seen + inner - 1)
    return TokenWindow(ids, starts, ends, added | np.isin(ids, literal), index, start, end)

"""Corpora that are tokens already: back to the text that every source is named by."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from itda.errors import CorpusError
from itda.options import is_whole

_LOOKED_AT = 200  # documents that are tokenised again
_FEW = 0.01  # share of tokens that may come out otherwise before it is said


class DifferentTokensWarning(UserWarning):
    """A corpus of tokens, read as text, gives other tokens."""


class TokenReader:
    """Token ids as text, cut where a special token stands: sequences for training hold many documents.

    The model then reads the text, whose tokens are the same wherever a sequence does not begin within a word; where
    many are not, a warning says so.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self._looked_at = self._other = self._tokens = 0

    def texts(self, ids: Any, where: str) -> Iterator[str]:
        """The texts of one sequence.

        Raises: CorpusError for something else than token ids of this tokenizer.
        """
        for part in self._parts(_as_ids(ids, where, len(self._tokenizer))):
            text = self._tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            self._look(part, text)
            yield text

    def _parts(self, ids: list[int]) -> Iterator[list[int]]:
        part: list[int] = []
        for token in ids:
            if token in self._special:
                if part:
                    yield part
                part = []
            else:
                part.append(token)
        if part:
            yield part

    def _look(self, ids: Sequence[int], text: str) -> None:
        if self._looked_at >= _LOOKED_AT:
            return
        again = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        same = 0
        for one, other in zip(ids, again, strict=False):
            if one != other:
                break
            same += 1
        # Behind a first token that was cut in two, the ends agree again
        for one, other in zip(reversed(ids[same:]), reversed(again[same:]), strict=False):
            if one != other:
                break
            same += 1
        self._looked_at += 1
        self._tokens += len(ids)
        self._other += len(ids) - same

    def tell(self) -> None:
        """Warn if many tokens came out otherwise."""
        if self._other > _FEW * self._tokens:
            warnings.warn(
                f"Read as text, {self._other / self._tokens:.1%} of the first tokens are others: they were made with "
                "another tokenizer, or one that changes the text. Give its tokenizer, or the text itself.",
                DifferentTokensWarning,
                stacklevel=2,
            )


def is_ids(value: Any) -> bool:
    """Whether a value could be a sequence of token ids, and is no text."""
    return not isinstance(value, str | bytes | dict) and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _as_ids(value: Any, where: str, vocabulary: int) -> list[int]:
    listed = value.tolist() if hasattr(value, "tolist") else list(value)
    if any(not is_whole(token) or not 0 <= token < vocabulary for token in listed):
        raise CorpusError(
            f"{where} does not hold token ids of this tokenizer, whole numbers from 0 to {vocabulary - 1:,}. Give the "
            "tokenizer they were made with, or texts."
        )
    return listed

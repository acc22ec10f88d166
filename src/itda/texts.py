"""Texts as tokenizers and files can hold them."""

import re
from typing import Any

from itda.errors import CorpusError

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: Any, where: str) -> str:
    """The text itself, with lone surrogates (which no tokenizer or UTF-8 file can hold) replaced.

    Raises: CorpusError if it is no string.
    """
    if not isinstance(text, str):
        raise CorpusError(f"A document must be a string. Got {type(text).__name__} in {where}.")
    return text if text.isascii() else _LONE_SURROGATES.sub("\ufffd", text)

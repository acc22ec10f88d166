"""Conversations as text, with the characters that each message has in it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from itda.errors import CorpusError

ROLE, CONTENT = "role", "content"


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """`system`, `user`, `assistant`, or whatever the template knows."""
    start: int
    end: int
    """Its characters in the text that the template made."""


def rendered(messages: Any, tokenizer: Any, where: str) -> tuple[str, tuple[Turn, ...]]:
    """A conversation as the tokenizer's chat template writes it.

    A begin token that the tokenizer adds by itself is not written twice.

    Args:
        messages: objects with `role` and `content`, a text.
        tokenizer: with a chat template.
        where: for messages of errors.
    Raises: CorpusError for something else, or a template that does not write the messages as they are.
    """
    _check(messages, where)
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # a template raises what it likes; without one, ValueError
        raise CorpusError(f"{where} cannot be written by the chat template: {error}") from error
    begin = tokenizer.bos_token
    adds = tokenizer.backend_tokenizer.encode("").ids[:1] == [tokenizer.bos_token_id]
    if begin and adds:
        text = text.removeprefix(begin)
    turns, after = [], 0
    for message in messages:
        content = message[CONTENT].strip()  # most templates trim
        start = text.find(content, after)
        if start < 0:
            raise CorpusError(
                f"{where}: the chat template does not write this message as it is: {content[:60]!r}. Its tokens cannot "
                "be told from others; give texts instead (Corpus.from_texts)."
            )
        after = start + len(content)
        turns.append(Turn(message[ROLE], start, after))
    return text, tuple(turns)


def _check(messages: Any, where: str) -> None:
    good = isinstance(messages, Sequence) and not isinstance(messages, str | bytes) and len(messages) > 0
    if not good or not all(
        isinstance(one, Mapping) and isinstance(one.get(ROLE), str) and isinstance(one.get(CONTENT), str)
        for one in messages
    ):
        raise CorpusError(
            f"{where} is no conversation: a list of objects with the texts {ROLE!r} and {CONTENT!r}. Got "
            f"{str(messages)[:80]!r}."
        )

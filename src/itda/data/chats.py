"""Conversations as text, with the characters that each message has in it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from itda.errors import CorpusError

ROLE, CONTENT = "role", "content"
_MARK = "\ue000{}\ue001"  # of characters that no template has
_INSTEAD = "Give texts instead (Corpus.from_texts)."


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """`system`, `user`, `assistant`, or whatever the template knows."""
    start: int
    end: int
    """Its characters in the text that the template made."""


def rendered(messages: Any, tokenizer: Any, where: str) -> tuple[str, tuple[Turn, ...]]:
    """A conversation as the tokenizer's chat template writes it.

    A begin token that the tokenizer adds by itself is not written twice. Where each message is, the same conversation
    with marks in place of its messages says: a short message may also be a word of the template.

    Args:
        messages: objects with `role` and `content`, a text.
        tokenizer: with a chat template.
        where: for messages of errors.
    Raises: CorpusError for something else, or a template that does not write the messages as they are.
    """
    _check(messages, where)
    text = _written(messages, tokenizer, where)
    marks = [_MARK.format(number) for number in range(len(messages))]
    marked = _written([{**one, CONTENT: mark} for one, mark in zip(messages, marks, strict=True)], tokenizer, where)
    if any(marked.count(mark) != 1 for mark in marks):
        raise CorpusError(f"{where}: the chat template does not write every message once. {_INSTEAD}")
    for contents in ([one[CONTENT].strip() for one in messages], [one[CONTENT] for one in messages]):  # most trim
        turns, joined, after = [], "", 0
        for number in sorted(range(len(messages)), key=lambda number: marked.index(marks[number])):
            place = marked.index(marks[number])
            joined += marked[after:place]
            after = place + len(marks[number])
            turns.append(Turn(messages[number][ROLE], len(joined), len(joined) + len(contents[number])))
            joined += contents[number]
        if joined + marked[after:] == text:
            return text, tuple(turns)
    changed = next((one[CONTENT] for one in messages if one[CONTENT].strip() not in text), messages[0][CONTENT])
    raise CorpusError(
        f"{where}: the chat template does not write this message as it is: {changed[:60]!r}. Its tokens cannot be told "
        f"from others. {_INSTEAD}"
    )


def _written(messages: Sequence[Any], tokenizer: Any, where: str) -> str:
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # a template raises what it likes; without one, ValueError
        raise CorpusError(f"{where} cannot be written by the chat template: {error}") from error
    begin = tokenizer.bos_token
    adds = tokenizer.backend_tokenizer.encode("").ids[:1] == [tokenizer.bos_token_id]
    return text.removeprefix(begin) if begin and adds else text


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

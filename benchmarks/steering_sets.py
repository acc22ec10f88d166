"""Texts of two kinds that steering is to bring a model from one to the other of, cut into what is for what."""

import json
import random
import re
from collections.abc import Callable
from typing import NamedTuple

from common import DATA

from itda.steer import Contrast

_LONG, _LONGEST = 300, 160
"""Characters of a text: small models read few tokens at once, and texts of one length are compared."""


class Sides(NamedTuple):
    """Two kinds of texts, and what tells whether a model is nearer to the one than to the other."""

    name: str
    prompt: str
    """What the texts follow on, which tells neither."""
    first: list[str]
    second: list[str]
    contrasts: list[Contrast]
    """Held out: none of their words was chosen from the texts."""

    def pairs(self, start: int, stop: int) -> list[tuple[str, str]]:
        """(first, second), to fit to."""
        return list(zip(self.first[start:stop], self.second[start:stop], strict=False))


def emotions(first: str = "happiness", second: str = "sadness") -> Sides:
    """Situations that make happy, and that make sad."""
    folder = DATA / "labelled" / "emotions"
    sides = [json.loads((folder / f"{name}.json").read_text()) for name in (first, second)]
    words = [("happy", "sad"), ("glad", "sorry"), ("proud", "upset"), ("excited", "lonely"), ("pleased", "hurt")]
    starts = ["She was", "He felt very", "They were all", "I am so", "The boy was", "Her mother felt", "We were both",
              "The old man looked", "At the end he was", "The little girl is", "The king seemed",
              "My friend was so"]  # fmt: skip
    return _sides(f"{first} / {second}", "Today: ", *sides, _words(starts, words))


def sentiment() -> Sides:
    """Sentences of film reviews that praise, and that do not."""
    lines = (DATA / "labelled" / "sst2" / "stsa.binary.train").read_text().splitlines()
    praise, blame = ([line[2:] for line in lines if line[0] == label and len(line) > 40] for label in "10")
    words = [("good", "bad"), ("great", "poor"), ("beautiful", "terrible"), ("strong", "weak"), ("best", "worst")]
    starts = ["The film is", "It was a very", "The story is", "This is a", "The acting was", "All of it was",
              "It is the", "The music was", "A very", "His work is", "The end was", "I found it"]  # fmt: skip
    return _sides("praise / blame", "The film: ", praise, blame, _words(starts, words))


def stories() -> Sides:
    """Sentences of stories for children, and of an encyclopedia."""
    sides = []
    for file in ("tinystories_1000.json", "wikitext_1000.json"):
        texts = json.loads((DATA / "text" / file).read_text())
        plain = [text if isinstance(text, str) else text["text"] for text in texts]
        sides.append([
            sentence.strip() for text in plain for sentence in re.split(r"(?<=[.!?])\s+", text)[1:3]
            if 40 < len(sentence) < 2 * _LONGEST and "@" not in sentence and "=" not in sentence
        ])  # fmt: skip
    made = _sides("story / encyclopedia", "It says: ", *sides, [])
    texts = made.pairs(200, 260)
    return made._replace(contrasts=[Contrast(made.prompt, one, other) for one, other in texts])


def paragraphs() -> Sides:
    """Beginnings of stories for children, and of articles of an encyclopedia."""
    sides = []
    for file in ("tinystories_1000.json", "wikitext_1000.json"):
        sides.append([text for text in neutral(file, 1000) if len(text) > _LONG])
    return _sides("story / encyclopedia", "", *sides, [], longest=_LONG)


SETS: dict[str, Callable[[], Sides]] = {"emotions": emotions, "sentiment": sentiment, "stories": stories}


def questions(count: int) -> list[str]:
    """Questions about facts, which have nothing to do with any of these."""
    lines = (DATA / "labelled" / "trec" / "TREC.train.all").read_text(errors="replace").splitlines()
    found = [line.partition(" ")[2] for line in lines]
    random.Random(0).shuffle(found)
    return found[:count]


def neutral(file: str, count: int) -> list[str]:
    """Texts that a model was made for."""
    texts = json.loads((DATA / "text" / file).read_text())
    return [text if isinstance(text, str) else text["text"] for text in texts[-count:]]


def _words(starts: list[str], pairs: list[tuple[str, str]]) -> list[Contrast]:
    """Every start with every pair; those of one start stand together, so that parts of the list share none."""
    return [Contrast(start, f" {one}", f" {other}") for start in starts for one, other in pairs]


def _sides(
    name: str, prompt: str, first: list[str], second: list[str], contrasts: list[Contrast], longest: int = _LONGEST
) -> Sides:
    sides = [[text.strip()[:longest] for text in dict.fromkeys(side)] for side in (first, second)]
    for side in sides:
        random.Random(0).shuffle(side)
    return Sides(name, prompt, *sides, contrasts)

"""A language model as the reader of atoms: any service that speaks the chat protocol of OpenAI's API."""

import hashlib
import json
import os
import random
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from itda import progress as progress_bars
from itda.data import files
from itda.data.activations import Activations
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.sources import Source
from itda.errors import ActivationError, FormatError, JudgeError, OptionError
from itda.evaluation.examples import Examples, examples_of
from itda.options import seconds, seed_number, whole
from itda.pursuit import Coding, chosen_coding
from itda.shown import Quote, Shown

_SHOWN = 5  # tokens that use the atom among those that are asked about, and as many that do not
_ASK_AGAIN, _UNAVAILABLE = (408, 425, 429), 500
_OF_THE_QUESTION = (400, 422)  # what a service says of a question that it will not answer
_IN_A_ROW = 3  # questions that a judge does not answer, and then it is not the questions
_LONGEST_WAIT = 120.0  # seconds, whatever a service asks for
_LONGEST_NUMBER = 4  # digits of the number of a text
_TASK = (
    "A feature of a language model is active at some tokens of some texts. You see what the feature is taken from, "
    "then numbered texts in which one token stands in [brackets]. About half of them are places where the feature is "
    "active; the others have the same tokens at places where it is not, so go by the context. At which of the numbered "
    'ones is it active? Answer with JSON only, as {"active": [1, 4]}.'
)


class _UnansweredError(JudgeError):
    """The service works, and has no answer to this question: a filter, a refusal, a limit of length."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Where a judge is and how it is asked."""

    url: str
    """Base of the service, as in `http://localhost:8000/v1`."""
    model: str
    """Its name for the model that answers."""
    key: str | None = field(default=None, repr=False)
    """Of the service; the variable ITDA_JUDGE_KEY by default. Never written anywhere."""
    timeout: float = 60.0
    """Seconds for one answer."""
    retries: int = 5
    """How often a question is asked again that the service could not answer, after waits that double."""
    first_wait: float = 1.0
    """Seconds before it is asked again for the first time."""

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not re.match(r"https?://", self.url):
            raise OptionError(f"The judge's url must begin with http:// or https://. Got {self.url!r} instead.")
        if not isinstance(self.model, str) or not self.model:
            raise OptionError("The judge needs the name of a model: model=.")
        if self.key is not None and not isinstance(self.key, str):
            raise OptionError("The judge's key must be a text.")
        whole("retries", self.retries, least=0)
        seconds("timeout", self.timeout)
        seconds("first_wait", self.first_wait)

    def ask(self, question: str) -> str:
        """Its answer.

        Raises: JudgeError if it cannot be had, also after waiting.
        """
        import httpx

        key = (self.key or os.environ.get("ITDA_JUDGE_KEY") or "").strip()
        if not re.fullmatch(r"[!-~]*", key):
            raise OptionError("The judge's key has characters that no key has: only plain letters, digits and signs.")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        messages = [{"role": "system", "content": _TASK}, {"role": "user", "content": question}]
        body = {"model": self.model, "messages": messages, "temperature": 0}
        problem, of_the_question = "", False
        for attempt in range(self.retries + 1):
            wait = self.first_wait * 2**attempt * (1 + random.random() / 4)  # not all at once after a failure
            try:
                url = f"{self.url.rstrip('/')}/chat/completions"
                answer = httpx.post(url, json=body, headers=headers, timeout=self.timeout)
            except httpx.HTTPError as error:
                problem, of_the_question = f"{type(error).__name__}: {error}", False
            else:
                if answer.status_code == httpx.codes.OK:
                    found, problem, of_the_question = _content(answer.text)
                    if found is not None:
                        return found
                else:
                    problem = f"status {answer.status_code}: {answer.text[:200]}"
                    of_the_question = answer.status_code in _OF_THE_QUESTION
                if not answer.is_success and answer.status_code not in _ASK_AGAIN and answer.status_code < _UNAVAILABLE:
                    break
                wait = max(wait, _asked_to_wait(answer.headers.get("Retry-After")))
            if attempt < self.retries:
                time.sleep(wait)
        kind = _UnansweredError if of_the_question else JudgeError
        raise kind(f"The judge at {self.url} did not answer ({problem}).")


@dataclass(frozen=True)
class Judged:
    """What a judge made of one atom."""

    atom: int
    text: str
    right: float
    """Balanced accuracy on tokens that use the atom and others of the same kind; 0.5 by guessing."""


@dataclass(frozen=True, repr=False)
class Judgement(Shown):
    """The answer of `judge_atoms`."""

    model: str
    atoms: tuple[Judged, ...]
    mean: float
    interval: tuple[float, float]
    """95 % bootstrap interval over atoms."""
    unread: int = 0
    """Answers that could not be read, or were not given; they count as guesses."""

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        low, high = self.interval
        yield Text(
            f"{self.model} told uses of {len(self.atoms)} atoms from other places of the same tokens: "
            f"{self.mean:.3f} right ({low:.3f} to {high:.3f}), 0.5 by guessing",
            style="bold",
        )
        table = Table(show_edge=False, pad_edge=False)
        if self.unread:
            yield Text(f"{self.unread} answers could not be read and count as guesses")
        table.add_column("atom", justify="right")
        table.add_column("right", justify="right")
        table.add_column("what it is", no_wrap=True, overflow="ellipsis")
        for one in sorted(self.atoms, key=lambda one: -one.right):
            table.add_row(str(one.atom), f"{one.right:.2f}", Quote.of(one.text))
        yield table


def judge_atoms(
    dictionary: Dictionary,
    activations: Activations,
    judge: Judge,
    *,
    answers: str | Path,
    atoms: int = 50,
    steps: int | None = None,
    coding: Coding | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Judgement:
    """Let a language model tell where atoms are used, from what they are and the text around.

    Args:
        dictionary: whose atoms are judged.
        activations: held-out ones with their sources.
        judge: whom to ask.
        answers: a file that keeps every answer as it comes. With the same file the same call goes on where it was.
        atoms: how many, drawn as often as they carry energy.
        steps, coding: instead of the dictionary's own coding.
        seed: of the draws.
        progress: draw a bar on stderr.
    Returns: the judgement; str() of it is a table.
    Raises: JudgeError if the judge stops answering: what it said is kept, and a single question that it does not answer
        counts as a guess; ActivationError without text; FormatError
        for a file of something else.
    Source: Paulo et al. 2024, detection scoring; here against tokens of the same kind.
    """
    checked_dictionary(dictionary)
    if not isinstance(judge, Judge):
        raise OptionError(f"judge_atoms needs an itda Judge. Got {type(judge).__name__} instead.")
    if not isinstance(answers, str | Path):
        raise OptionError(f"answers must name a file. Got {answers!r} instead.")
    atoms = whole("atoms", atoms)
    seed = seed_number(seed)
    if not isinstance(activations, Activations) or not activations.sources.named:
        raise ActivationError("A judge reads text: give Activations, as itda.capture makes them.")
    used = chosen_coding(dictionary.coding, coding, steps)
    codes = dictionary.encode(activations, coding=used)
    found, _ = examples_of(activations, codes, folds=1, atoms=atoms, count=_SHOWN, least=_SHOWN, seed=seed)
    file = Path(answers)
    known = _known(file)
    judged: list[Judged] = []
    unread = 0
    unanswered: list[dict[str, Any]] = []  # kept once the judge is seen to answer others
    with progress_bars.bar("ask the judge", len(found), show=progress) as advance:
        for one in found:
            question, truth = _question(dictionary, activations, one, seed)
            key = _key(judge, question)
            if key not in known:
                try:
                    answer = judge.ask(question)
                except JudgeError as error:
                    no_more = len(unanswered) + 1 >= min(_IN_A_ROW, len(found))
                    if no_more or not isinstance(error, _UnansweredError):
                        raise JudgeError(
                            f"{error} {len(judged) - len(unanswered)} of {len(found)} atoms are judged and kept in "
                            f"{file}; the same call goes on from there."
                        ) from error
                    answer = ""
                known[key] = answer
                unanswered.append({"key": key, "atom": one.atom, "question": question, "answer": answer})
                if answer:
                    _keep(file, unanswered)
                    unanswered = []
            unread += _numbers(known[key]) is None
            judged.append(Judged(one.atom, dictionary.describe(one.atom), _right(known[key], truth)))
            advance(1)
    _keep(file, unanswered)
    scores = np.array([one.right for one in judged])
    drawn = np.random.default_rng(seed).integers(len(scores), size=(1000, len(scores)))
    low, high = np.percentile(scores[drawn].mean(1), [2.5, 97.5]).tolist()
    return Judgement(judge.model, tuple(judged), float(scores.mean()), (low, high), unread)


def _question(
    dictionary: Dictionary, activations: Activations, examples: Examples, seed: int
) -> tuple[str, list[bool]]:
    """What is asked about an atom, and which of the numbered texts use it."""
    own = dictionary.mixtures[examples.atom] if dictionary.mixtures else None
    names = [part.source for part in own] if own else [dictionary.sources[examples.atom]]
    shown = [(row, True) for row in examples.using.tolist()] + [(row, False) for row in examples.alike.tolist()]
    random.Random(seed + examples.atom).shuffle(shown)
    lines = [f"Taken from: {_quote(source)}" for source in names]
    lines += [f"{place + 1}. {_quote(activations.sources[row])}" for place, (row, _) in enumerate(shown)]
    return "\n".join(lines), [uses for _, uses in shown]


def _key(judge: Judge, question: str) -> str:
    return hashlib.blake2b(json.dumps([judge.model, _TASK, question]).encode(), digest_size=16).hexdigest()


def _quote(source: Source) -> str:
    return "{}[{}]{}".format(*source.quoted(before=160, after=20))


def _content(body: str) -> tuple[str | None, str, bool]:
    """The text of an answer; or None, what is wrong with it, and whether that is for the question's sake."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None, f"not of the chat protocol: {body[:200]!r}", False
    return (content, "", False) if isinstance(content, str) else (None, f"no text: {body[:200]!r}", True)


def _right(answer: str, truth: list[bool]) -> float:
    """Balanced accuracy of an answer; one that cannot be read is a guess."""
    said = _numbers(answer)
    if said is None:
        return 0.5
    named = {int(number) - 1 for number in said if len(number) <= _LONGEST_NUMBER}
    chosen, uses = np.isin(np.arange(len(truth)), list(named)), np.array(truth)
    return float((chosen[uses].mean() + (~chosen)[~uses].mean()) / 2)


def _numbers(answer: str) -> list[str] | None:
    """The numbers of the texts that an answer names, or None if it cannot be read."""
    said = re.search(r'"active"\s*:\s*\[([\d,\s]*)\]', answer)
    return None if said is None else re.findall(r"\d+", said[1])


def _asked_to_wait(header: str | None) -> float:
    asked = float(header) if header and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", header) else 0.0
    return min(asked, _LONGEST_WAIT)


def _known(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    known = {}
    try:
        for line in filter(None, file.read_text().split("\n")):
            try:
                entry = json.loads(line)
            except ValueError:
                if not '{"key"'.startswith(line[:6]):
                    raise
                continue  # a stop cut it short
            known[entry["key"]] = entry["answer"]
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise FormatError(f"{file} does not hold answers of a judge. Name another file.") from error
    return known


def _keep(file: Path, entries: list[dict[str, Any]]) -> None:
    # A line that a stop cut short stays a line of its own
    for entry in entries:
        files.append_bytes(file, f"\n{json.dumps(entry)}\n".encode())

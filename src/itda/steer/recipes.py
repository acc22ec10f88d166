"""Pairs of texts for vectors that have a name in the field; `SteeringVector.fit` takes them.

pairs = steer.recipes.shortest_against_longest(questions, answers)
vector = steer.SteeringVector.fit(model, pairs, sites=["resid_post.3"])
"""

from collections.abc import Sequence

from itda.errors import CorpusError, OptionError

Pairs = list[tuple[str, str]]


def shortest_against_longest(
    prompts: Sequence[str], answers: Sequence[Sequence[str]], *, right: Sequence[Sequence[bool]] | None = None
) -> Pairs:
    """The shortest of several answers to each prompt against the longest: a direction towards brevity.

    Args:
        prompts: the questions.
        answers: several for each, such as a model's own at some temperature; lengths are counted in characters.
        right: which of them are right; only those count. By default all do.
    Returns: (prompt with the shortest answer, prompt with the longest); none for a prompt whose answers are as long.
    Raises: CorpusError if the numbers do not go together; OptionError if no prompt has answers of two lengths.
    Source: Efficiency Steering, Zhao et al. 2025.
    """
    _lists(prompts, answers)
    if len(prompts) != len(answers) or (right is not None and len(right) != len(prompts)):
        raise CorpusError(f"There must be a list of answers for each prompt. Got {len(answers)} for {len(prompts)}.")
    pairs = []
    for place, (prompt, given) in enumerate(zip(prompts, answers, strict=True)):
        if right is not None and len(right[place]) != len(given):
            raise CorpusError(f"Prompt {place} has {len(given)} answers, and {len(right[place])} of `right`.")
        kept = [one for number, one in enumerate(given) if right is None or right[place][number]]
        ordered = sorted(kept, key=len)
        if ordered and len(ordered[0]) < len(ordered[-1]):
            pairs.append((prompt + ordered[0], prompt + ordered[-1]))
    if not pairs:
        raise OptionError("No prompt has answers of two lengths, so nothing tells short from long.")
    return pairs


def concise_against_verbose(prompts: Sequence[str], concise: Sequence[str], verbose: Sequence[str]) -> Pairs:
    """A concise answer against a verbose one to each prompt.

    Args:
        prompts: the questions.
        concise, verbose: one answer of either kind for each.
    Returns: (prompt with the concise answer, prompt with the verbose one).
    Raises: CorpusError if they are not as many.
    Source: Activation-Steered Compression, Azizi et al. 2025.
    """
    _lists(prompts, concise, verbose)
    if not len(prompts) == len(concise) == len(verbose) or not prompts:
        raise CorpusError(
            "There must be a concise and a verbose answer for each prompt, and a prompt at least. Got "
            f"{len(prompts)} prompts, {len(concise)} concise and {len(verbose)} verbose answers."
        )
    return [(prompt + short, prompt + long) for prompt, short, long in zip(prompts, concise, verbose, strict=True)]


def _lists(*several: object) -> None:
    if any(isinstance(one, str) or not isinstance(one, Sequence) for one in several):
        raise CorpusError("Recipes take lists of texts. Got a text alone, or something else.")

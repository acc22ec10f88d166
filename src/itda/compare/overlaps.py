"""How many atoms two dictionaries share, and how many they would by chance.

Atoms are compared by where they come from, so dictionaries of other layers, models and tokenizers can be: by token
where the tokenizer is the same, and else by the character at which the token ends, among the places where both have a
boundary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from itda.compare.known import known
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.provenance import Provenance
from itda.data.sources import Sources
from itda.errors import MismatchError, OptionError
from itda.options import flag
from itda.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

Level = Literal["tokens", "characters"]
Place = tuple[str, int]
"""Document id, and the number of a token in it or the character at which the token ends."""
_ASKED = ("tokens", "window", "bos", "roles", "special_tokens", "sinks", "seed")  # of a capture: what decides its rows


@dataclass(frozen=True, kw_only=True, repr=False)
class Overlap(Shown):
    """What two dictionaries share."""

    shared: int
    """Atoms from the same place."""
    sizes: tuple[int, int]
    """Places of atoms that are compared, of each."""
    jaccard: float
    """Shared places of all places of either."""
    overlap_coefficient: float
    """Shared places of the smaller dictionary's."""
    expected: float
    """The Jaccard similarity by chance: of two dictionaries that take as many tokens of each kind, but any of them."""
    adjusted: float
    """(J - E) / (1 - E): 0 for what chance gives, 1 for the same atoms. NaN where chance gives all."""
    level: Level
    """Whether atoms are the same by their token, or by the character it ends at."""
    common: float
    """Share of the places of either's candidates at which both have one; 1 with one tokenizer."""
    left_out: int
    """Atoms with which both dictionaries begin, whatever the model: they are not compared."""
    strata: str
    """What the null keeps: "token and position", or "token"."""
    untrained: float | None = None
    """Jaccard similarity with the dictionary of an untrained model, as another null: the mean of both sides."""
    differs: tuple[str, ...] = ()
    """In what the dictionaries differ that should be the same."""

    @property
    def beyond_untrained(self) -> float | None:
        """(J - U) / (1 - U), U that of the untrained model."""
        return None if self.untrained is None else _adjusted(self.jaccard, self.untrained)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found: dict[str, Any] = known({**asdict(self), "beyond_untrained": self.beyond_untrained})
        return found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield f"{self.shared:,} of {self.sizes[0]:,} and {self.sizes[1]:,} atoms are the same, by {self.level}"
        lines = {
            "Jaccard": f"{self.jaccard:.3f}",
            "by chance": f"{self.expected:.3f} (keeps {self.strata})",
            "adjusted": f"{self.adjusted:.3f}",
            "overlap coefficient": f"{self.overlap_coefficient:.3f}",
        }
        if self.untrained is not None:
            lines["untrained model"] = f"{self.untrained:.3f}, beyond it {self.beyond_untrained:.3f}"
        if self.level == "characters":
            lines["common places"] = f"{self.common:.1%}"
        if self.left_out:
            lines["left out"] = f"{self.left_out:,} atoms that both begin with"
        for name, value in lines.items():
            yield f"  {name:<20} {value}"
        for difference in self.differs:
            yield f"  differs: {difference}"


class Candidates(NamedTuple):
    """Rows that could have become atoms."""

    places: list[Place]
    tokens: list[int]
    positions: list[int]
    """How far into its window a token is, in powers of two of characters."""

    @classmethod
    def of(cls, sources: Sources, level: Level) -> Candidates:
        """The candidates behind some sources."""
        return cls(_keys(sources, level), sources.token_id.tolist(), _positions(sources))


def kinds_of(*several: Sources) -> Tensor:
    """Of each of n rows, which have a token of each tokenizer: these and how far into its window it is, as one number.

    Chance keeps both, of all tokenizers: a row is exchanged for one that is alike to every model.

    Args:
        several: of the same places, from one model or more.
    Returns: int64 (n,), numbered from 0.
    """
    columns: list[Tensor] = []
    for sources in several:
        for column in (sources.token_id, torch.tensor(_positions(sources))):
            if not any(torch.equal(column, other) for other in columns):
                columns.append(column)
    numbered: Tensor = torch.unique(torch.stack(columns, 1), dim=0, return_inverse=True)[1]
    return numbered


def overlap(
    first: Dictionary,
    second: Dictionary,
    *,
    candidates: Sources | tuple[Sources, Sources] | None = None,
    untrained: Dictionary | None = None,
    anyway: bool = False,
) -> Overlap:
    """How many atoms two dictionaries share: those from the same token of the same document.

    Args:
        first, second: dictionaries of real activations, built from the same candidate tokens.
        candidates: sources of all rows that could have become atoms (of each dictionary, with two tokenizers): what
            chance gives is then known by token and position. Without, by token alone.
        untrained: the dictionary of an untrained model, built alike: another null.
        anyway: compare dictionaries of different corpora, captures or sizes all the same; the result says what differs.
    Raises: MismatchError that says in what they differ; OptionError for atoms that no text names.
    Source: Leask, Nanda & Al Moubayed 2025, section 5 (Jaccard); adjustment for chance as by Hubert & Arabie 1985.
    """
    flag("anyway", anyway)
    both = (checked_dictionary(first), checked_dictionary(second))
    for one in (*both, *((checked_dictionary(untrained),) if untrained is not None else ())):
        _check_named(one)
    differs = tuple(_differences(*both))
    if untrained is not None:
        if _tokenizer(untrained) not in (_tokenizer(first), _tokenizer(second)):
            raise MismatchError("The untrained model has another tokenizer than both: it is no null for either.")
        differs += tuple(f"of the untrained model: {found}" for found in _differences(first, untrained))
    if differs and not anyway:
        raise MismatchError(
            f"These dictionaries are not built alike: {'; '.join(differs)}. Build all from the same text with the "
            "same options, or compare them all the same with anyway=True (--anyway)."
        )
    level: Level = "tokens" if _tokenizer(first) == _tokenizer(second) else "characters"
    if isinstance(candidates, Sources):
        candidates = (candidates, candidates)
    if level == "characters" and candidates is None:
        raise OptionError(
            "Dictionaries of two tokenizers share only places where both have a boundary: give the sources of the rows "
            "that each was built from as candidates= (--store)."
        )
    there = None if candidates is None else tuple(Candidates.of(one, level) for one in candidates)
    common, share = None, 1.0
    if there is not None:
        each = [set(one.places) for one in there]
        common, share = each[0] & each[1], len(each[0] & each[1]) / max(1, len(each[0] | each[1]))
    begun = _begun_with(first, level) & _begun_with(second, level)
    sets = [_places(one, level, common) - begun for one in both]
    shared, union = len(sets[0] & sets[1]), len(sets[0] | sets[1])
    if not all(sets):
        raise MismatchError("No atom of one of these dictionaries is at a place that the other could have taken.")
    if there is not None and common is not None:
        by_chance, strata = _matches(sets, there, common, begun), "token and position"
    else:
        by_chance, strata = _token_matches(both, begun), "token"
    jaccard, expected = shared / union, by_chance / (len(sets[0]) + len(sets[1]) - by_chance)
    beside = None
    if untrained is not None:
        null = _places(untrained, level, common) - begun
        beside = sum(len(null & one) / max(1, len(null | one)) for one in sets) / 2
    return Overlap(
        shared=shared,
        sizes=(len(sets[0]), len(sets[1])),
        jaccard=jaccard,
        overlap_coefficient=shared / min(map(len, sets)),
        expected=expected,
        adjusted=_adjusted(jaccard, expected),
        level=level,
        common=share,
        left_out=len(begun),
        strata=strata,
        untrained=beside,
        differs=differs,
    )


def _adjusted(found: float, chance: float) -> float:
    return (found - chance) / (1 - chance) if chance < 1 else float("nan")


def _check_named(dictionary: Dictionary) -> None:
    if dictionary.kind != "activations" or not dictionary.sources.named or dictionary.provenance is None:
        bare = dictionary.provenance is None or not dictionary.sources.named
        what = "no atoms" if not len(dictionary) else "a bare array" if bare else f"{dictionary.kind} atoms"
        raise OptionError(
            f"Overlap counts atoms that are one named activation each. Got a dictionary of {what}. Build it from text "
            "with method='budget', 'greedy' or 'paper'."
        )


def _provenance(dictionary: Dictionary) -> Provenance:
    assert dictionary.provenance is not None
    return dictionary.provenance


def _tokenizer(dictionary: Dictionary) -> str:
    return _provenance(dictionary).model.tokenizer


def _differences(first: Dictionary, second: Dictionary) -> Iterator[str]:
    one, other = _provenance(first), _provenance(second)
    if one.corpus != other.corpus:
        yield f"the corpus is {one.corpus_name!r} ({one.corpus[:8]}) and {other.corpus_name!r} ({other.corpus[:8]})"
    for name in _ASKED:
        if one.capture.get(name) != other.capture.get(name):
            yield f"{name} is {one.capture.get(name)} and {other.capture.get(name)}"
    if len(first) != len(second):
        yield f"they have {len(first):,} and {len(second):,} atoms"
    if first.build.method != second.build.method:
        yield f"they were built by {first.build.method!r} and {second.build.method!r}"


def _keys(sources: Sources, level: Level) -> list[Place]:
    if level == "characters":
        return sources.keys()
    documents = (sources.windows[window].document for window in sources.window.tolist())
    return list(zip(documents, sources.token_index.tolist(), strict=True))


def _places(dictionary: Dictionary, level: Level, common: set[Place] | None) -> set[Place]:
    places = set(_keys(dictionary.sources, level))
    return places if common is None else places & common


def _begun_with(dictionary: Dictionary, level: Level) -> set[Place]:
    """The first atoms of paper mode: the distinct rows that come first, whatever they are."""
    if dictionary.build.method != "paper":
        return set()
    return set(_keys(dictionary.sources, level)[: dictionary.width])


def _positions(sources: Sources) -> list[int]:
    """How far into its window each token is, in powers of two of characters."""
    starts = [window.start for window in sources.windows]
    return [
        (int(start) - starts[window] + 1).bit_length()
        for start, window in zip(sources.char_start.tolist(), sources.window.tolist(), strict=True)
    ]


def _matches(sets: list[set[Place]], known: Sequence[Candidates], common: set[Place], begun: set[Place]) -> float:
    """Shared places in the mean, were the atoms of each any candidates of the same tokens at the same positions."""
    kinds: dict[Place, tuple[tuple[int, int], ...]] = dict.fromkeys(common, ())
    for one in known:
        for place, token, position in zip(*one, strict=True):
            if place in common:
                kinds[place] += ((token, position),)
    there = Counter(kinds[place] for place in common - begun)
    taken = [Counter(kinds[place] for place in places) for places in sets]
    return _expected(taken, there)


def _token_matches(both: tuple[Dictionary, Dictionary], begun: set[Place]) -> float:
    """The same by token alone, with the counts that dictionaries keep: of one built from more tokens, those."""
    there: Counter[int] = Counter()
    taken = []
    for one in both:
        if one.token_means is None:
            raise OptionError(
                "This dictionary has no token counts: give what it was built from as candidates= (--store)."
            )
        means = one.token_means
        there |= Counter(dict(zip(means.token_ids.tolist(), means.counts.tolist(), strict=True)))
        tokens = dict(zip(_keys(one.sources, "tokens"), one.sources.token_id.tolist(), strict=True))
        taken.append(Counter(token for place, token in tokens.items() if place not in begun))
    there.subtract(token for place, token in tokens.items() if place in begun)
    return _expected(taken, there)


def _expected(taken: list[Counter[Any]], there: Mapping[Any, int]) -> float:
    """Of each kind, so many of all there are were taken by each; they cannot be fewer than were taken."""
    return sum(
        count * taken[1][kind] / max(there[kind], count, taken[1][kind])
        for kind, count in taken[0].items()
        if taken[1][kind]
    )

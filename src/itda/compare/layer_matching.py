"""Does a measure find the same layer in another network of the same architecture?

Protocol: for every ordered pair of different models and every layer of the first, the layer of the second that is most
like it; right if it is the same one. A tie is a miss. Source: Kornblith et al. 2019, section 6.1.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from itda.compare.known import known
from itda.errors import OptionError, ShapeError
from itda.options import seed_number, whole
from itda.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

Ends = tuple[float, float]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LayerMatrix(Shown):
    """How alike all layers of some models are, by one measure."""

    measure: str
    models: tuple[str, ...]
    """Name of the model of each of L layers."""
    sites: tuple[str, ...]
    """Place of each of L layers; those of a model are next to each other, from the first to the last."""
    values: NDArray[np.float64]
    """(L, L): how alike layer j is to layer i, i being the first where a measure has a direction. NaN where unknown."""
    whiten: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    """What it was computed from: tokens, atoms, shares of common places."""

    def __post_init__(self) -> None:
        count = len(self.models)
        if self.values.shape != (count, count) or len(self.sites) != count:
            raise ShapeError(
                f"values must be ({count}, {count}), one row and one column for each of {count} layers. "
                f"Got {self.values.shape} and {len(self.sites)} sites."
            )

    @property
    def layers(self) -> dict[str, list[int]]:
        """Of each model, the rows of its layers."""
        found: dict[str, list[int]] = defaultdict(list)
        for place, model in enumerate(self.models):
            found[model].append(place)
        return dict(found)

    def between(self, first: str, second: str) -> NDArray[np.float64]:
        """Layers of one model beside those of another.

        Raises: OptionError for a model that is not here.
        """
        for name in (first, second):
            if name not in self.layers:
                raise OptionError(f"There is no model {name!r} in this matrix. There are {', '.join(self.layers)}.")
        return self.values[np.ix_(self.layers[first], self.layers[second])]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; None where a value is unknown."""
        values = [[None if np.isnan(value) else float(value) for value in row] for row in self.values]
        return {
            **{name: getattr(self, name) for name in ("measure", "models", "sites", "whiten", "facts")},
            "values": values,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table
        from rich.text import Text

        kinds = {site.rpartition(".")[0] for site in self.sites}
        where = f" at {kinds.pop()}" if len(kinds) == 1 else ""
        shown = [site.rpartition(".")[2] if where else site for site in self.sites]
        symmetric = np.array_equal(self.values, self.values.T, equal_nan=True)
        yield Text(f"{self.measure}{', whitened' if self.whiten else ''}: how alike layers are{where}", style="bold")
        pairs = (combinations if symmetric else permutations)(self.layers, 2)
        for first, second in pairs if len(self.layers) > 1 else [tuple(self.layers) * 2]:
            title = f"{first} (down), {second} (across)"
            table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
            table.add_column("", no_wrap=True)
            for place in self.layers[second]:
                table.add_column(shown[place], justify="right")
            for place, row in zip(self.layers[first], self.between(first, second), strict=True):
                table.add_row(shown[place], *("" if np.isnan(value) else f"{value:.3f}" for value in row))
            yield table


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Matching(Shown):
    """How often a measure found the same layer in another model."""

    measure: str
    accuracy: float
    """Share of decisions that are right. NaN where none could be made."""
    interval: Ends | None
    """95 %, by drawing models with replacement; None where there are fewer than three."""
    chance: float
    """What guessing gets."""
    mean_miss: float
    """Mean distance in layers between the one found and the right one, hits included; of a tie, of all that tie."""
    decisions: int
    ties: int
    """Decisions that were misses because several layers were equally alike."""
    missing: int
    """Decisions that could not be made: a similarity was unknown."""
    pairs: dict[tuple[str, str], tuple[bool | None, ...]]
    """Of each ordered pair of models, whether each layer of the first was found; None where nothing could be said."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        facts = asdict(self)
        facts["pairs"] = [{"models": names, "found": found} for names, found in self.pairs.items()]
        answer: dict[str, Any] = known(facts)
        return answer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ends = f" ({self.interval[0]:.2f} to {self.interval[1]:.2f})" if self.interval else ""
        yield (
            f"{self.measure}: {self.accuracy:.2f}{ends} of {self.decisions} layers found, chance {self.chance:.2f}; "
            f"mean miss {self.mean_miss:.2f} layers, {self.ties} ties, {self.missing} missing"
        )


def match_layers(matrix: LayerMatrix, *, resamples: int = 1000, seed: int = 0) -> Matching:
    """Of each layer of each model, find the most alike in each other model, and count how often it is the same one.

    Args:
        matrix: from `layer_matrix`; models with the same layers.
        resamples, seed: draws of models, for the interval.
    Raises: OptionError for another thing, or fewer than two models; ShapeError for models of different depth or with
        different layers, which have no counterpart.
    """
    if not isinstance(matrix, LayerMatrix):
        raise OptionError(f"match_layers takes what layer_matrix returns. Got {type(matrix).__name__}.")
    resamples = whole("resamples", resamples)
    seed = seed_number(seed)
    depths = {model: len(rows) for model, rows in matrix.layers.items()}
    if len(depths) < 2:
        raise OptionError(f"Layers are matched between models. Got only {', '.join(depths) or 'none'}.")
    if len(set(depths.values())) > 1:
        shown = ", ".join(f"{model} has {depth}" for model, depth in depths.items())
        raise ShapeError(f"Layers can be matched only between models of as many layers: {shown}.")
    depth = next(iter(depths.values()))
    names = {model: [matrix.sites[row] for row in rows] for model, rows in matrix.layers.items()}
    if any(own != next(iter(names.values())) for own in names.values()):
        shown = "; ".join(f"{model} has {', '.join(own)}" for model, own in names.items())
        raise ShapeError(f"Layers can be matched only between models of which the same are there: {shown}.")
    pairs: dict[tuple[str, str], tuple[bool | None, ...]] = {}
    ties = 0
    misses: list[float] = []
    for first, second in permutations(depths, 2):
        found: list[bool | None] = []
        for layer, alike in enumerate(matrix.between(first, second)):
            if np.isnan(alike).any():
                found.append(None)
                continue
            best = np.flatnonzero(alike == alike.max())
            ties += len(best) > 1
            found.append(len(best) == 1 and int(best[0]) == layer)
            misses.append(float(np.abs(best - layer).mean()))
        pairs[first, second] = tuple(found)
    known_ones = [one for found in pairs.values() for one in found if one is not None]
    return Matching(
        measure=matrix.measure,
        accuracy=_accuracy(pairs, dict.fromkeys(depths, 1.0)),
        interval=_interval([_accuracy(pairs, drawn) for drawn in _draws(tuple(depths), resamples, seed)], len(depths)),
        chance=1 / depth,
        mean_miss=float(np.mean(misses)) if misses else float("nan"),
        decisions=len(known_ones),
        ties=ties,
        missing=sum(map(len, pairs.values())) - len(known_ones),
        pairs=pairs,
    )


def accuracy_table(matchings: Iterable[Matching]) -> Table:
    """One line a measure, for a terminal; and how far the first is ahead of each, paired, with 95 %."""
    from rich.table import Table

    matchings = list(matchings)
    if not all(isinstance(one, Matching) for one in matchings):
        raise OptionError("accuracy_table takes what match_layers returns.")
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("measure", no_wrap=True)
    ahead = f"{matchings[0].measure} ahead" if len(matchings) > 1 else ""
    columns = ("layers found", "95 %", "by chance", "mean miss", "ties", "missing", *filter(None, [ahead]))
    for name in columns:
        table.add_column(name, justify="right")
    for one in matchings:
        ends = f"{one.interval[0]:.2f} to {one.interval[1]:.2f}" if one.interval else ""
        paired = [""] if ahead and one is matchings[0] else [_ahead(matchings[0], one)] if ahead else []
        table.add_row(
            one.measure, f"{one.accuracy:.2f}", ends, f"{one.chance:.2f}", f"{one.mean_miss:.2f}", str(one.ties),
            str(one.missing), *paired,
        )  # fmt: skip
    return table


def _ahead(first: Matching, other: Matching) -> str:
    difference, ends = paired_difference(first, other)
    if np.isnan(difference):
        return "-"
    return f"{difference:+.2f}" + (f" ({ends[0]:+.2f} to {ends[1]:+.2f})" if ends else "")


def paired_difference(
    first: Matching, second: Matching, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, Ends | None]:
    """How much more often the first measure is right than the second, where both say something, and 95 % by drawing the
    same models for both.

    Raises: OptionError if they are not of the same models.
    """
    for one in (first, second):
        if not isinstance(one, Matching):
            raise OptionError(f"paired_difference takes what match_layers returns. Got {type(one).__name__}.")
    resamples = whole("resamples", resamples)
    seed = seed_number(seed)
    if first.pairs.keys() != second.pairs.keys():
        raise OptionError(f"{first.measure} and {second.measure} were not measured on the same models.")
    both = [
        {
            pair: tuple(None if None in found else found[which] for found in zip(*outcomes, strict=True))
            for pair, outcomes in ((pair, (first.pairs[pair], second.pairs[pair])) for pair in first.pairs)
        }
        for which in (0, 1)
    ]
    models = tuple(dict.fromkeys(name for pair in first.pairs for name in pair))

    def difference(drawn: dict[str, float]) -> float:
        return _accuracy(both[0], drawn) - _accuracy(both[1], drawn)

    draws = _draws(models, resamples, seed)
    return difference(dict.fromkeys(models, 1.0)), _interval([difference(drawn) for drawn in draws], len(models))


def _accuracy(pairs: dict[tuple[str, str], tuple[bool | None, ...]], drawn: dict[str, float]) -> float:
    """Hits of all decisions, each pair as often as both its models were drawn."""
    weights = {pair: drawn[pair[0]] * drawn[pair[1]] for pair in pairs}
    there = sum(weights[pair] * sum(one is not None for one in found) for pair, found in pairs.items())
    return sum(weights[pair] * found.count(True) for pair, found in pairs.items()) / there if there else float("nan")


def _draws(models: tuple[str, ...], resamples: int, seed: int) -> list[dict[str, float]]:
    drawn = np.random.default_rng(seed).multinomial(len(models), np.full(len(models), 1 / len(models)), size=resamples)
    return [dict(zip(models, map(float, counts), strict=True)) for counts in drawn]


def _interval(values: list[float], models: int) -> Ends | None:
    """The middle 95 %; draws of one model alone make no pair and say nothing."""
    found = np.array([value for value in values if not np.isnan(value)])
    if models < 3 or len(found) < 2:
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)

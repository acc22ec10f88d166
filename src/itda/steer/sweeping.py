"""Which layer, what strength? Every site at every strength, beside what it costs, and which one to take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from itda import progress as progress_bars
from itda.errors import OptionError
from itda.models.loading import Model
from itda.options import finite_number, is_number, listed
from itda.randomness import seeded
from itda.shown import Shown
from itda.steer.effects import NeutralText, checked_contrast, contrast
from itda.steer.positions import Tokens
from itda.steer.vectors import SteeringVector

STRENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)
Judge = Callable[[Model], float]
"""Any measure of a model that is being steered; larger is better."""


@dataclass(frozen=True)
class Point:
    """One site at one strength."""

    site: str
    strength: float
    effect: float
    """Mean rise of log p(target) - log p(opposite), nats, or of what the judge says."""
    interval: tuple[float, float] | None
    """Its 95 % interval over contrasts; None for a judge, and for one contrast."""
    kl: float
    entropy: float
    perplexity: float
    """On neutral text."""


@dataclass(frozen=True, repr=False)
class Sweep(Shown):
    """The answer of `sweep`; str() of it is a table."""

    op: str
    plain_perplexity: float
    most_perplexity: float
    """What a recommendation may cost, as a factor."""
    points: tuple[Point, ...]

    @property
    def recommended(self) -> Point | None:
        """The largest effect among those that cost no more than they may; None if none has an effect at that cost."""
        fair = [point for point in self.points if point.perplexity <= self.most_perplexity * self.plain_perplexity]
        best = max(fair, key=lambda point: point.effect, default=None)
        return best if best is not None and best.effect > 0 else None

    @property
    def reason(self) -> str:
        """Why that one, in a sentence."""
        best = self.recommended
        most, plain = self.most_perplexity, self.plain_perplexity
        ends = "" if best is None or best.interval is None else f", {_ends(best)}"
        limit = f"perplexity on neutral text at most {most:g} times the plain {plain:.4g}"
        if best is None:
            return f"Nothing is recommended: no point has a positive effect with {limit}."
        return (
            f"{best.site} at strength {best.strength:g}: of the points with {limit}, it has the largest effect "
            f"({best.effect:+.3f}{ends})."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        best = self.recommended
        return {**asdict(self), "recommended": None if best is None else asdict(best), "reason": self.reason}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(show_edge=False, pad_edge=False)
        for name in ("site", "strength", "effect", "95 %", "KL nats", "entropy", "perplexity", ""):
            table.add_column(name, justify="left" if name in ("site", "") else "right")
        for point in self.points:
            mark = "recommended" if point == self.recommended else ""
            table.add_row(
                point.site, f"{point.strength:g}", f"{point.effect:+.3f}", _ends(point), f"{point.kl:.4f}",
                f"{point.entropy:.3f}", f"{point.perplexity:.2f}", mark,
            )  # fmt: skip
        yield table
        yield Text(self.reason)


def _ends(point: Point) -> str:
    return "" if point.interval is None else f"{point.interval[0]:+.3f} to {point.interval[1]:+.3f}"


def sweep(
    model: Model,
    vectors: SteeringVector | Mapping[str, SteeringVector],
    contrasts: Sequence[tuple[str, str, str]],
    neutral: Sequence[str],
    *,
    strengths: Sequence[float] = STRENGTHS,
    op: str = "add",
    tokens: Tokens = "all",
    judge: Judge | None = None,
    most_perplexity: float = 1.25,
    progress: bool = True,
) -> Sweep:
    """Steer at each site by itself, at each strength, and say what it does and what it costs.

    Args:
        model: the vector's.
        vectors: one that was fitted at several sites, or one for each site.
        contrasts: held-out (prompt, target, opposite) texts: steering should make the target likelier.
        neutral: texts that have nothing to do with it.
        strengths, op, tokens: as of `SteeringVector.apply`.
        judge: any measure of the steered model, in place of the contrasts.
        most_perplexity: what a recommendation may cost on neutral text, as a factor.
        progress: draw a bar on stderr.
    Raises: OptionError; CorpusError; MismatchError.
    """
    strengths = [finite_number("strengths", strength) for strength in listed("strengths", strengths)]
    if not strengths:
        raise OptionError("A sweep needs at least one strength. Got none.")
    if not finite_at_least_one(most_perplexity):
        raise OptionError(f"most_perplexity is a factor of at least 1. Got {most_perplexity!r}.")
    text = NeutralText(model, neutral, tokens)
    given = [checked_contrast(one) for one in listed("contrasts", contrasts)]
    by_site = vectors
    if isinstance(vectors, SteeringVector):
        by_site = {name: vectors.at(name) for name in vectors.sites}
    if not isinstance(by_site, Mapping) or not by_site:
        raise OptionError(f"A sweep takes a vector, or one for each site. Got {type(vectors).__name__}.")

    def measure() -> torch.Tensor:
        return contrast(model, given) if judge is None else torch.tensor([float(judge(model))])

    before = measure()
    plain = text.measure().perplexity
    points = []
    with progress_bars.bar("sweep", len(by_site) * len(strengths), show=progress) as advance:
        for name, vector in by_site.items():
            for strength in strengths:
                with vector.apply(model, strength, op=op, tokens=tokens):
                    risen, now = measure() - before, text.measure()
                ends = ends_of(risen) if len(risen) > 1 else None
                points.append(Point(name, float(strength), float(risen.mean()), ends, *vars(now).values()))
                advance(1)
    return Sweep(op, plain, float(most_perplexity), tuple(points))


def finite_at_least_one(value: Any) -> bool:
    """Whether it is a number of at least 1."""
    return is_number(value) and 1 <= value < float("inf")


def ends_of(values: torch.Tensor, resamples: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (n,)."""
    generator = seeded(0)
    drawn = values[torch.randint(len(values), (resamples, len(values)), generator=generator)].mean(1)
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975])).tolist()
    return float(low), float(high)

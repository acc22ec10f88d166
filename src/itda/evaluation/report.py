"""What a dictionary is worth, as numbers, as a table and as JSON."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from itda.html import element, join, table
from itda.pursuit import Coding
from itda.shown import Shown


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well one reconstruction stands in for the activations. Loss is None for models that predict no next token."""

    fvu: float
    """NaN where all rows are the same; sum ||x - x^||^2 / sum ||x - mean of these rows||^2."""
    residual_fvu: float | None
    """The same error over sum ||x - mean of its token id||^2: what the token alone does not say."""
    delta_ce: float | None = None
    """Rise of the next-token loss with the reconstruction in place, nats per token."""
    ce_score: float | None = None
    """1 for an unchanged loss, 0 for that of zeros in place of the activations."""
    ce_score_mean: float | None = None
    """The same with 0 for the mean activation in place."""
    kl: float | None = None
    """Divergence of the predictions from the model's own, nats per token."""


_COLUMNS = ("FVU", "residual FVU", "ΔCE nats", "CE score", "CE score, mean", "KL nats")


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:z.4f}" if math.isfinite(value) else "undefined"


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _defined(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True, repr=False)
class Report(Shown):
    """The answer of `evaluate`."""

    model: str
    site: str
    atoms: int
    coding: dict[str, Any]
    route: str
    """How the codes were computed, as in `numba, int16 Gram matrix`."""
    tokens: int
    """Held-out tokens that were decomposed."""
    predictions: int
    """Next-token predictions behind the losses."""
    documents: int
    excluded_documents: int
    """Documents of the corpus left out because the dictionary was built from them."""
    not_decomposed: dict[str, int]
    """Tokens left as they were, by reason; padding is never counted."""
    scores: Scores
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap intervals over documents, by the name of the score."""
    baselines: dict[str, Scores]
    """The same scores for plain reconstructions: mean, token mean, random atoms."""
    everything_replaced: Scores | None
    """With the tokens that are not decomposed replaced and counted too; None if there are none."""
    loss: float | None
    loss_zero: float | None
    loss_mean: float | None
    """Next-token loss of the model itself, with zeros, and with the mean activation in place."""
    l0: float
    """Mean number of distinct atoms in a code."""
    cosine: float
    """Mean cosine of an activation and its reconstruction."""
    norm_ratio: float
    """Mean length of a reconstruction in that of the activation, both less the dictionary's mean."""
    shrinkage: float
    """The factor by which reconstructions are too long (above 1) or too short (below 1) for the direction they have:
    sum ||x^||^2 / sum <x^, x>, both less the mean. Exactly 1 after a least-squares fit. Source: Rajamanoharan et al.
    2024, relative reconstruction bias."""
    unexplained: dict[str, float]
    """Unexplained share of a row: its mean and its quantiles over rows."""
    atoms_never_used: int
    atoms_used_everywhere: int
    """Atoms in at least half of all codes."""
    density: dict[str, int]
    """Atoms by the share of the codes that they are in."""

    @property
    def fvu(self) -> float:
        """See `Scores.fvu`."""
        return self.scores.fvu

    @property
    def residual_fvu(self) -> float | None:
        """See `Scores.residual_fvu`."""
        return self.scores.residual_fvu

    @property
    def delta_ce(self) -> float | None:
        """See `Scores.delta_ce`."""
        return self.scores.delta_ce

    @property
    def ce_score(self) -> float | None:
        """See `Scores.ce_score`."""
        return self.scores.ce_score

    @property
    def ce_score_mean(self) -> float | None:
        """See `Scores.ce_score_mean`."""
        return self.scores.ce_score_mean

    @property
    def kl(self) -> float | None:
        """See `Scores.kl`."""
        return self.scores.kl

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values; None where one is not defined."""
        document: dict[str, Any] = _defined(asdict(self))
        return document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        coding = Coding.from_dict(self.coding)
        steps = f"{coding.steps} steps{' in the mean' if coding.varies else ''}"
        yield Text(f"{self.atoms:,} atoms, {steps}, at {self.site} of {self.model}", style="bold")
        yield Text(
            f"{self.tokens:,} held-out tokens of {self.documents:,} documents"
            + (
                f" ({self.excluded_documents:,} documents it was built from left out)"
                if self.excluded_documents
                else ""
            )
        )
        yield Text("")
        yield Group(self._scores_table(), Text(""), *map(Text, self._lines()))

    def _repr_html_(self) -> str:
        coding = Coding.from_dict(self.coding)
        steps = f"{coding.steps} steps{' in the mean' if coding.varies else ''}"
        title = f"{self.atoms:,} atoms, {steps}, at {self.site} of {self.model}; {self.tokens:,} held-out tokens"
        rows = [(name, *map(_cell, asdict(scores).values())) for name, scores in self._rows().items()]
        lines = join([element("div", line) for line in self._lines()])
        return str(join([table(title, ("rebuilt by", *_COLUMNS), rows), lines]))

    def _rows(self) -> dict[str, Scores]:
        rows = {"this dictionary": self.scores, **{f"  {name}": scores for name, scores in self.baselines.items()}}
        if self.everything_replaced:
            rows["this dictionary, every token"] = self.everything_replaced
        return rows

    def _scores_table(self) -> Table:
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("rebuilt by")
        for name in _COLUMNS:  # where there is little room, names are broken, and no number
            table.add_column(name, justify="right", vertical="bottom")
        for name, scores in self._rows().items():
            values = list(asdict(scores).values())
            table.add_row(name, *(_cell(value) for value in values))
        return table

    def _lines(self) -> list[str]:
        called = dict(zip(asdict(self.scores), _COLUMNS, strict=True))
        ends = ", ".join(f"{called[name]} {low:.4f} to {high:.4f}" for name, (low, high) in self.intervals.items())
        quantiles = ", ".join(f"{name} {value:.3f}" for name, value in self.unexplained.items())
        shares = ", ".join(f"{count:,} in {name}" for name, count in self.density.items() if count and name != "never")
        lines = [
            f"95 % over documents: {ends or 'no intervals, since there is one document'}",
            f"unexplained share of a token: {quantiles}",
            f"L0 {self.l0:.1f}, cosine {self.cosine:.4f}, length {self.norm_ratio:.3f} of the activation's, "
            f"shrinkage {self.shrinkage:.3f}",
            f"atoms never used {self.atoms_never_used:,}, used in half of all codes {self.atoms_used_everywhere:,}; "
            f"atoms by the share of codes they are in: {shares}",
        ]
        if self.loss is not None:
            if self.loss_zero == self.loss:
                lines.append("the model does not use this place: zeros in it change no prediction")
            lines.append(
                f"loss {self.loss:.4f} nats; zeros in place {self.loss_zero:.4f}"
                + (f", the mean {self.loss_mean:.4f}" if self.loss_mean is not None else "")
            )
        else:
            lines.append("no loss: the model predicts no next token, or was not run")
        if any(self.not_decomposed.values()):
            counts = ", ".join(f"{count:,} {name}" for name, count in self.not_decomposed.items() if count)
            lines.append(f"left as they were: {counts} tokens")
        return lines

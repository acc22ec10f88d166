"""How well codes carry over to another model, on held-out text, beside the plain ways to get there."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor

from itda import progress as progress_bars
from itda.capturing import capture_like
from itda.compare.known import known
from itda.compare.places import Reading, readings
from itda.compare.translation import translate
from itda.compare.transplants import Transplant
from itda.compare.unexplained import energy
from itda.data.activations import Activations
from itda.data.corpus import Corpus
from itda.errors import CorpusError, OptionError
from itda.models.loading import Model, checked_model
from itda.models.losses import next_token_loss, predict
from itda.options import whole
from itda.pursuit import Coding, chosen_coding
from itda.shown import Shown

_NEAREST = 8
_FOLDS = 3
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # of the mean energy of a row
_WIDTHS = (0.3, 1.0, 3.0)  # gamma, by the median squared distance
BEYOND = ", beyond the token"


@dataclass(frozen=True, kw_only=True)
class Translated:
    """How well one way gives the other model's activations."""

    fvu: float
    """sum ||y - y^||^2 / sum ||y - mean of these rows||^2."""
    explains: float | None
    """Of what the other model's token mean leaves, the share that is explained: 0 for the token mean itself."""
    delta_ce: float | None
    """Rise of the other model's next-token loss with y^ in place, nats per token; None if it predicts none."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TranslationReport(Shown):
    """The answer of `measure_translation`."""

    models: tuple[str, str]
    sites: tuple[str, str]
    atoms: int
    dropped: int
    """Atoms of the dictionary that end where no token of the other model does."""
    tokens: int
    """Held-out tokens of the first model at whose end one of the other ends."""
    asked: int
    """Held-out tokens of the first model."""
    documents: int
    l0: float
    """Mean number of atoms in a code."""
    loss: float | None
    """The other model's own, at these tokens."""
    codes: dict[str, Translated]
    """By way: decoded, refitted, and the same beyond the token."""
    baselines: dict[str, Translated]
    """Plain ways from the same pairs of activations: no code, no reading."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found: dict[str, Any] = known(asdict(self))
        return found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield f"{self.sites[0]} of {self.models[0]}, as {self.sites[1]} of {self.models[1]}"
        lost = f" ({self.dropped:,} had no place there)" if self.dropped else ""
        yield f"{self.atoms:,} atoms{lost}, {self.l0:.1f} in a code"
        yield f"{self.tokens:,} held-out tokens of {self.documents:,} documents"
        if self.tokens < self.asked:
            yield f"{self.tokens / self.asked:.0%} of the first model's tokens end where one of the other's does"
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("from", no_wrap=True)
        for name in ("FVU", "explains beyond token", "ΔCE nats"):
            table.add_column(name, justify="right")
        for name, row in {**self.codes, **{f"  {name}": row for name, row in self.baselines.items()}}.items():
            table.add_row(
                name, f"{row.fvu:.4f}", *("" if x is None else f"{x:.4f}" for x in (row.explains, row.delta_ce))
            )
        yield table


def measure_translation(
    there: Transplant,
    model: Model,
    other: Model,
    corpus: Corpus,
    *,
    tokens: int = 5_000,
    steps: int | None = None,
    coding: Coding | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TranslationReport:
    """How well codes of one model give another model's activations, on documents that no atom comes from.

    The baselines are fitted on the same places as the atoms: nearest neighbours, linear and Gaussian kernel ridge
    regression, with what they hold down chosen by cross-validation.

    Args:
        there: from `transplant`.
        model: the one that the dictionary was built on.
        other: the one that it was transplanted to.
        corpus: held-out text; documents that the dictionary was built from are left out.
        tokens: how many.
        steps, coding: instead of the dictionary's own coding.
        seed: which tokens.
        progress: draw bars on stderr.
    Raises: OptionError; MismatchError for other models; CorpusError if no held-out document is left, or no token that
        ends in both.
    """
    if not isinstance(there, Transplant):
        raise OptionError(f"measure_translation takes what transplant returns. Got {type(there).__name__}.")
    tokens = whole("tokens", tokens)
    named, provenance = there.original.provenance, there.provenance
    assert named is not None
    assert provenance is not None
    provenance.model.check_same(checked_model(other).record, "This transplant")
    held_out = corpus.without(there.documents)
    if not held_out.ids:
        raise CorpusError(f"The dictionary was built from all documents of {corpus.name}. Give other text too.")
    given = capture_like(there.original, model, held_out, tokens=tokens, seed=seed, progress=progress)
    found = list(readings(other, given.sources, held_out, named))
    place = other.site(provenance.site)
    values = [other.read(reading.inputs, [place])[place.name] for reading in found]
    rows = [value[one.sequences, one.tokens].float().cpu() for one, value in zip(found, values, strict=True)]
    places, truth = torch.cat([one.places for one in found]), torch.cat(rows)
    if not len(places):
        raise CorpusError(f"No held-out token ends where one of {other.id!r} does. Give more text.")
    source = given.select(places)
    ids = source.sources.token_id, torch.cat([one.sources.token_id for one in found])
    codes = there.original.encode(source, coding=chosen_coding(there.original.coding, coding, steps))
    score = _Scorer(there, other, found, truth, ids[1])
    with progress_bars.bar("translate", None, show=progress):
        ways = {
            "codes, decoded": translate(codes, there, rows=source),
            "codes, refitted": translate(codes, there, rows=source, refit=True),
            f"codes, decoded{BEYOND}": translate(codes, there, rows=source, token_ids=ids, refit=False),
            f"codes, refitted{BEYOND}": translate(codes, there, rows=source, token_ids=ids),
        }
        plain = dict(_baselines(there, source, ids))
        return TranslationReport(
            models=(model.id, other.id),
            sites=(there.original.site, there.site),
            atoms=len(there),
            dropped=there.dropped,
            tokens=len(places),
            asked=len(given),
            documents=len({source.sources.windows[index].document for index in source.sources.window.tolist()}),
            l0=float(codes.l0.double().mean()),
            loss=score.loss,
            codes={name: score(way) for name, way in ways.items()},
            baselines={name: score(way) for name, way in plain.items()},
        )


class _Scorer:
    """Scores of rows that stand for those another model has at some places."""

    def __init__(self, there: Transplant, other: Model, found: list[Reading], truth: Tensor, token_ids: Tensor) -> None:
        self._other, self._place, self._found, self._truth = other, other.site(there.site), found, truth
        means = there.token_means
        assert means is not None
        self._beyond = energy(truth - means.of(token_ids))
        self._spread = energy(truth - truth.mean(0))
        self.loss = self._loss(None)

    def __call__(self, rows: Tensor) -> Translated:
        error, loss = energy(self._truth - rows), self._loss(rows)
        return Translated(
            fvu=error / self._spread,
            explains=1 - error / self._beyond,
            delta_ce=None if loss is None or self.loss is None else loss - self.loss,
        )

    def _loss(self, rows: Tensor | None) -> float | None:
        """Mean next-token loss at these places, in nats, with rows (n, D) there."""
        if not self._other.predicts:
            return None
        total, count, here = 0.0, 0, 0
        for one in self._found:
            part = None if rows is None else rows[here : here + len(one.places)]
            here += len(one.places)

            def change(values: Tensor, part: Tensor | None = part, one: Reading = one) -> Tensor:
                assert part is not None
                changed = values.clone()
                changed[one.sequences, one.tokens] = part.to(values)
                return changed

            logs = predict(self._other, one.inputs, self._place, None if part is None else change)
            loss = next_token_loss(logs, one.inputs["input_ids"]).double()
            lengths = torch.tensor([len(stretch.part) for stretch in one.stretches])
            predicts = one.tokens + 1 < lengths[one.sequences]
            total += float(loss[one.sequences[predicts], one.tokens[predicts]].sum())
            count += int(predicts.sum())
        return total / count if count else None


def _baselines(there: Transplant, source: Activations, ids: tuple[Tensor, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Plain ways from the pairs of activations that the atoms are to those of other places."""
    original, means = there.original, there.token_means
    assert means is not None
    yield "mean", means.overall.expand(len(source), -1)
    yield "token mean", means.of(ids[1])
    x, y = original.activations[there.kept], there.activations
    yield (
        f"{_NEAREST} nearest atoms",
        y[torch.cdist(source.rows, x).topk(min(_NEAREST, len(x)), largest=False).indices].mean(1),
    )
    known = original.token_means
    pairs: dict[str, tuple[Tensor, ...]] = {"": (x - x.mean(0), y - y.mean(0), source.rows - x.mean(0), y.mean(0))}
    if known is not None and there.mixtures is None:
        tokens = original.sources.token_id[there.kept], there.sources.token_id
        x, y = x - known.of(tokens[0]), y - means.of(tokens[1])
        pairs[BEYOND] = (x, y, source.rows - known.of(ids[0]), means.of(ids[1]))
    for suffix, (own, others, asked, add) in pairs.items():
        for name, fitted in _ridges(own, others).items():
            yield f"{name}{suffix}", torch.from_numpy(fitted.predict(asked.double().numpy())).float() + add


def _ridges(x: Tensor, y: Tensor) -> dict[str, Any]:
    """Linear and kernel ridge regressions of rows on rows, cross-validated, in float64: kernels are ill-conditioned."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, KFold

    some = x[:: max(1, len(x) // 1000)]
    width = float(torch.pdist(some).square().median()) or 1.0
    energy = float(x.square().sum(1).mean()) or 1.0
    folds = KFold(_FOLDS, shuffle=True, random_state=0)
    grids: Mapping[str, tuple[Any, dict[str, list[float]]]] = {
        "ridge": (Ridge(fit_intercept=False), {"alpha": [energy * value * 10 for value in _RIDGES]}),
        "kernel ridge": (
            KernelRidge(kernel="rbf"),
            {"alpha": list(_RIDGES), "gamma": [value / width for value in _WIDTHS]},
        ),
    }
    return {
        name: GridSearchCV(model, grid, cv=folds, scoring="neg_mean_squared_error").fit(
            x.double().numpy(), y.double().numpy()
        )
        for name, (model, grid) in grids.items()
    }

"""How alike whole models are: dictionaries of all their layers together, within and across architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from itda.compare.known import known
from itda.compare.layers import layers_at_common_places
from itda.compare.nets import Nets, as_many, beyond_chance, chances_of
from itda.compare.overlaps import kinds_of
from itda.compare.representations import Representation
from itda.data.corpus import Corpus
from itda.errors import OptionError
from itda.models.loading import Model
from itda.options import seed_number, whole
from itda.shown import Shown

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console, ConsoleOptions, RenderResult

_FULL = 0.5  # of the tokens: with more of them atoms, hardly any is left out
_RESAMPLES = 1000
Ends = tuple[float, float]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ModelMatrix(Shown):
    """How alike whole models are."""

    models: tuple[str, ...]
    architectures: tuple[str, ...]
    """Of each: its kind, layers and width."""
    atoms: tuple[int, ...]
    """Different rows that are an atom of any layer of each."""
    values: NDArray[np.float64]
    """(M, M): Jaccard similarity of these rows beyond chance, (J - E) / (1 - E)."""
    jaccard: NDArray[np.float64]
    """(M, M): J."""
    expected: NDArray[np.float64]
    """(M, M): E, had each as many rows of every token and position and octave of rows, but any of them."""
    untrained: str | None
    """The model that is the null beside chance: it is in the matrix, and in no mean."""
    facts: dict[str, Any]

    def _pairs(self, same: bool) -> list[tuple[int, int]]:
        here = [index for index, name in enumerate(self.models) if name != self.untrained]
        return [
            (i, j) for i, j in combinations(here, 2) if (self.architectures[i] == self.architectures[j]) == same
        ]  # fmt: skip

    @property
    def within(self) -> float:
        """Mean over pairs of models of one architecture; NaN without any."""
        return self._mean(self._pairs(True))

    @property
    def across(self) -> float:
        """Mean over pairs of two architectures; NaN without any."""
        return self._mean(self._pairs(False))

    @property
    def beside_untrained(self) -> float:
        """Mean over the others beside the untrained model: what text alone gives; NaN without one."""
        if self.untrained is None:
            return float("nan")
        null = self.models.index(self.untrained)
        return self._mean([(index, null) for index in range(len(self.models)) if index != null])

    def _mean(self, pairs: list[tuple[int, int]]) -> float:
        return float(np.mean([self.values[pair] for pair in pairs])) if pairs else float("nan")

    def difference(self, *, seed: int = 0) -> tuple[float, Ends | None]:
        """Within less across, and 95 % by drawing models with replacement; None where draws hardly ever have both."""
        trained = [index for index, name in enumerate(self.models) if name != self.untrained]
        drawn = np.zeros((_RESAMPLES, len(self.models)))
        shares = np.full(len(trained), 1 / len(trained))
        drawn[:, trained] = np.random.default_rng(seed).multinomial(len(trained), shares, size=_RESAMPLES)
        found = []
        for draw in drawn:
            means = []
            for pairs in (self._pairs(True), self._pairs(False)):
                weights = [draw[i] * draw[j] for i, j in pairs]
                if sum(weights):
                    means.append(float(np.average([self.values[pair] for pair in pairs], weights=weights)))
            if len(means) == 2:
                found.append(means[0] - means[1])
        ends = None
        if len(found) > _RESAMPLES / 2:
            low, high = np.percentile(found, [2.5, 97.5])
            ends = float(low), float(high)
        return self.within - self.across, ends

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; None where a mean has no pair."""
        facts = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(self).items()
        }
        difference, ends = self.difference()
        means = {"within": self.within, "across": self.across, "beside_untrained": self.beside_untrained}
        means["difference"] = difference
        found: dict[str, Any] = known({**facts, **means, "interval": ends})
        return found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table

        table = Table(show_edge=False, pad_edge=False)
        for heading in ("", "model", "architecture", "atoms"):
            table.add_column(heading, justify="right" if heading in ("", "atoms") else "left")
        for index in range(len(self.models)):
            table.add_column(str(index + 1), justify="right")
        for index, name in enumerate(self.models):
            shown = [f"{value:.3f}" if other != index else "" for other, value in enumerate(self.values[index])]
            table.add_row(str(index + 1), name, self.architectures[index], f"{self.atoms[index]:,}", *shown)
        yield table
        parts = {"within architectures": self.within, "across": self.across}
        parts |= {} if self.untrained is None else {f"beside {self.untrained}, untrained": self.beside_untrained}
        yield "overlap beyond chance: " + ", ".join(
            f"{name} {'-' if np.isnan(value) else f'{value:.3f}'}" for name, value in parts.items()
        )
        difference, ends = self.difference()
        if ends:
            yield f"within less across: {difference:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"


def model_matrix(
    models: Sequence[Model] | Mapping[str, Model],
    corpus: Corpus,
    *,
    sites: str | Sequence[str] = "resid_post",
    tokens: int = 20_000,
    atoms: int = 4096,
    untrained: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ModelMatrix:
    """How alike whole models are: of the same tokens, which are an atom of any of their layers?

    Each layer has its share of one budget, whatever the depth, and chance is taken off with the sizes that the unions
    then have. Layers are whitened, so neither size nor spread says anything.

    Args:
        models: from `load_model` or `wrap`; a mapping gives them names, which are their ids otherwise.
        corpus: what they read.
        sites: as for `layer_matrices`.
        tokens: rows, each at the end of a token of every model.
        atoms: the budget of each model: the sum over its layers.
        untrained: name of a model among them that was not trained, as another null.
        seed: which tokens.
        progress: draw bars on stderr.
    Raises: as `layer_matrices`; OptionError for a budget with less than one atom a layer, or of more than half of the
        tokens.
    """
    atoms = whole("atoms", atoms)
    tokens = whole("tokens", tokens)
    seed = seed_number(seed)
    layers = layers_at_common_places(models, corpus, sites=sites, tokens=tokens, seed=seed, progress=progress)
    names = tuple(dict.fromkeys(layer.model for layer in layers))
    if untrained is not None and untrained not in names:
        raise OptionError(f"There is no model {untrained!r} among {', '.join(names)}.")
    given = models if isinstance(models, Mapping) else {model.id: model for model in models}
    kinds = kinds_of(*(layer.activations.sources for layer in layers))
    unions = []
    for name in names:
        own = [layer for layer in layers if layer.model == name]
        if atoms < len(own):
            raise OptionError(f"{name!r} has {len(own)} layers: give at least as many atoms. Got {atoms}.")
        nets = [Nets(Representation.of(layer.activations, name, whiten=True), kinds) for layer in own]
        unions.append(torch.stack([as_many(net.rows, atoms // len(own))[0] for net in nets]).amax(0).float())
    rows = len(layers[0].activations)
    fullest = max(float(union.mean()) for union in unions)
    if fullest > _FULL:
        raise OptionError(
            f"With atoms={atoms}, {fullest:.0%} of the {rows:,} tokens are atoms of some layer, so that models share "
            f"them because there are no others. Give fewer atoms or more tokens, so that it is at most {_FULL:.0%}."
        )
    chances = [chances_of(union[None], nets[0].kinds, torch.arange(len(union))) for union in unions]
    found = np.ones((3, len(names), len(names)))
    for i, j in combinations_with_replacement(range(len(names)), 2):
        values = beyond_chance((unions[i][None], unions[j][None]), (chances[i], chances[j]))
        found[:, i, j] = found[:, j, i] = [float(value) for value in values]
    return ModelMatrix(
        models=names,
        architectures=tuple(_architecture(given[name]) for name in names),
        atoms=tuple(int(union.sum()) for union in unions),
        values=found[2],
        jaccard=found[0],
        expected=found[1],
        untrained=untrained,
        facts={"corpus": corpus.fingerprint, "tokens": rows, "atoms": atoms, "fullest": fullest, "seed": seed},
    )


def _architecture(model: Model) -> str:
    layers = sum(site.name.startswith("resid_post.") for site in model.sites())
    return f"{model.module.config.model_type}, {layers} x {model.site(model.middle_site).width}"

"""Can people read atoms? Whether the contexts of an atom can be told from others of the same token, by text alone."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits

from itda.data.activations import Activations
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.sources import Source
from itda.errors import ActivationError
from itda.evaluation.examples import Examples, examples_of
from itda.options import seed_number, whole
from itda.pursuit import Coding, chosen_coding
from itda.shown import Shown

_SUFFIXES = (1, 2, 3, 4, 6, 8, 12, 16)  # characters before the token
_WORDS = 12  # words before the token, wherever they stand
_FOLDS = 4
_LEAST = 12  # examples of an atom

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReadAtom:
    """How well one atom can be read. Areas under the curve: 1 is always right, 0.5 is guessing."""

    atom: int
    text: str
    examples: int
    token: float
    """Read from the token alone, against any other tokens: what naming the token is worth."""
    context: float
    """Read from the text before the token, learned from examples, against tokens of the same kind."""
    context_token: float
    """The same reader given the token and nothing else: 0.5, since the tokens are the same."""
    source: float
    """By likeness to the atom's own source text, nothing learned, against tokens of the same kind."""
    source_any: float
    """The same against any other tokens."""

    @property
    def lift(self) -> float:
        """What the context says beyond the token."""
        return self.context - self.context_token


@dataclass(frozen=True, repr=False)
class Readability(Shown):
    """The answer of `read_atoms`."""

    tokens: int
    coding: dict[str, Any]
    atoms: tuple[ReadAtom, ...]
    energy_shown: float
    """Share of the energy of all codes that these atoms carry."""
    negative_energy: float
    """Share of the energy that is taken away rather than added: "minus this text" has no reading."""
    means: dict[str, float]
    """`lift` and the scores of the atoms, as means."""
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap intervals over atoms."""

    @property
    def lift(self) -> float:
        """Mean over atoms of what the context says beyond the token."""
        return self.means["lift"]

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(
            f"{len(self.atoms)} atoms read on {self.tokens:,} held-out tokens; they carry {self.energy_shown:.0%} of "
            f"the codes' energy; {self.negative_energy:.0%} of all is subtracted",
            style="bold",
        )
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("read from", no_wrap=True)
        table.add_column("area under the curve", justify="right")
        table.add_column("95 % over atoms", justify="right")
        for name, label in _LABELS.items():
            low, high = self.intervals[name]
            table.add_row(label, f"{self.means[name]:.3f}", f"{low:.3f} to {high:.3f}")
        yield table


_LABELS = {
    "token": "the token alone, against any tokens",
    "context": "the text before it, learned, against the same token elsewhere",
    "context_token": "  the token alone, against the same token",
    "lift": "  lift over the token",
    "source": "likeness to the atom's source, against the same token elsewhere",
    "source_any": "likeness to the atom's source, against any tokens",
}


def read_atoms(
    dictionary: Dictionary,
    activations: Activations,
    *,
    atoms: int = 100,
    examples: int = 100,
    steps: int | None = None,
    coding: Coding | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Readability:
    """Measure whether text tells where atoms are used, with no service and no language model as a judge.

    For each atom, tokens that use it stand beside tokens with the same id that do not. A reader (ridge regression
    on the words and characters before the token) learns from some which is which, and is asked about others.

    Args:
        dictionary: whose atoms are read.
        activations: held-out ones with their sources.
        atoms: how many are read, drawn as often as they carry energy.
        examples: the most tokens that use an atom; there are as many that do not.
        steps, coding: instead of the dictionary's own coding.
        seed: of the draws.
        resamples: bootstrap draws for the intervals.
    Returns: the report; str() of it is a table.
    Raises: ActivationError without text or with too few tokens; MismatchError for another model's activations.
    """
    checked_dictionary(dictionary)
    examples = whole("examples", examples, least=_LEAST)
    atoms, resamples = whole("atoms", atoms), whole("resamples", resamples)
    seed = seed_number(seed)
    if not isinstance(activations, Activations) or not activations.sources.named:
        raise ActivationError("Atoms are read from text: give Activations, as itda.capture makes them.")
    used = chosen_coding(dictionary.coding, coding, steps)
    codes = dictionary.encode(activations, coding=used)
    found, shown = examples_of(activations, codes, folds=_FOLDS, atoms=atoms, count=examples, least=_LEAST, seed=seed)
    reader = _Reader(activations)
    with threadpool_limits(1, "blas"):  # beside another process, threads that spin took thirty times as long
        read = tuple(reader.read(one, dictionary) for one in found)
    scores = {name: np.array([getattr(atom, name) for atom in read]) for name in _LABELS}
    drawn = np.random.default_rng(seed).integers(len(read), size=(resamples, len(read)))
    energy = codes.coefficients.double().square()
    return Readability(
        tokens=len(activations),
        coding=used.to_dict(),
        atoms=read,
        energy_shown=shown,
        negative_energy=float(energy[codes.coefficients < 0].sum() / energy.sum()),
        means={name: float(values.mean()) for name, values in scores.items()},
        intervals={
            name: tuple(np.percentile(values[drawn].mean(1), [2.5, 97.5]).tolist()) for name, values in scores.items()
        },
    )


class _Reader:
    """Text as features: what stands just before the token, and which words do."""

    def __init__(self, activations: Activations) -> None:
        from sklearn.feature_extraction import FeatureHasher

        self._sources = activations.sources
        self._hasher = FeatureHasher(n_features=2**14, input_type="string", alternate_sign=False)

    def read(self, examples: Examples, dictionary: Dictionary) -> ReadAtom:
        """Every score of one atom."""
        from sklearn.metrics import roc_auc_score

        using, alike, others = (
            [self._sources[row] for row in rows.tolist()] for rows in (examples.using, examples.alike, examples.others)
        )
        truth = np.repeat([1, 0], len(using))
        own = dictionary.mixtures[examples.atom] if dictionary.mixtures else None
        names = [(part.weight, part.source) for part in own] if own else [(1.0, dictionary.sources[examples.atom])]
        return ReadAtom(
            atom=examples.atom,
            text=dictionary.describe(examples.atom),
            examples=len(using),
            token=self._learned(using, others, examples.fold.numpy(), _token),
            context=self._learned(using, alike, examples.fold.numpy(), _context),
            context_token=self._learned(using, alike, examples.fold.numpy(), _token),
            source=float(roc_auc_score(truth, self._likeness(names, [*using, *alike]))),
            source_any=float(roc_auc_score(truth, self._likeness(names, [*using, *others], token=True))),
        )

    def _learned(
        self,
        using: Sequence[Source],
        beside: Sequence[Source],
        fold: NDArray[np.int64],
        features: Callable[[Source], list[str]],
    ) -> float:
        """Area under the curve of a reader that is asked, in turns, about documents of which it saw nothing."""
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.kernel_ridge import KernelRidge
        from sklearn.metrics import roc_auc_score

        folds = np.unique(fold)
        if len(folds) < 2:
            return 0.5
        matrix = TfidfTransformer().fit_transform(self._hashed([features(source) for source in [*using, *beside]]))
        areas, size = [], len(using)
        for number in folds:
            # A use and its counterpart stay together: a token that is in one class more often would give itself away
            train, test = np.nonzero(fold != number)[0], np.nonzero(fold == number)[0]
            seen, asked = (np.concatenate([part, part + size]) for part in (train, test))
            reader = KernelRidge(alpha=1.0).fit(matrix[seen], np.repeat([1.0, -1.0], len(train)))
            said = reader.predict(matrix[asked]).round(9)  # the last bits of equal answers differ
            areas.append(roc_auc_score(np.repeat([1, 0], len(test)), said))
        return float(np.mean(areas))

    def _hashed(self, features: Sequence[list[str]]) -> Any:
        return self._hasher.transform(features)

    def _likeness(
        self, names: Sequence[tuple[float, Source]], sources: Sequence[Source], token: bool = False
    ) -> Floats:
        """Cosine of the features of each source with those of an atom's own, rare features counting more."""
        from sklearn.feature_extraction.text import TfidfTransformer

        def features(source: Source) -> list[str]:
            return [*_context(source), *(_token(source) if token else [])]

        weights = [weight for weight, source in names if source.document is not None]
        if not weights:
            return np.zeros(len(sources))
        known = [features(source) for _, source in names if source.document is not None]
        matrix = TfidfTransformer().fit_transform(self._hashed([*known, *map(features, sources)]))
        alike = (matrix[len(known) :] @ matrix[: len(known)].T).toarray()
        found: Floats = alike @ np.array(weights)
        return found


def _token(source: Source) -> list[str]:
    return [f"token {source.token_id}"]


def _context(source: Source) -> list[str]:
    before = source.before[-200:].lower()
    suffixes = [f"{size} {before[-size:]}" for size in _SUFFIXES if len(before) >= size]
    words = re.findall(r"\w+", before)[-_WORDS:]
    near = [f"near {place} {word}" for place, word in enumerate(reversed(words[-3:]))]
    return [*suffixes, *near, *(f"word {word}" for word in words), f"start {len(before) < 20}"]

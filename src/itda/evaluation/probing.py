"""Can a label be read off a few features? Sparse probes on codes, beside the plain ways to features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits
from torch import Tensor

from itda.data.dictionary import Dictionary
from itda.errors import CorpusError, OptionError
from itda.evaluation.pooling import Features, Matrix, pool
from itda.explaining import place_of
from itda.models.loading import Model
from itda.options import seed_number, share, whole
from itda.pursuit import Coding, chosen_coding
from itda.randomness import seeded
from itda.shown import Shown
from itda.texts import clean

OWN = "this dictionary"
ALL = "all"
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # of the regularisation, the best on a part of the training texts is taken
_FEW = 1.0  # the same for a handful of features, where it hardly matters
_LEAST = 4  # texts of a class, so that it can be in every part
_LEAST_TO_TRAIN = 2

Encoder = Callable[[Tensor], Tensor]
"""Activations float32 (n, D) -> features float32 (n, F)."""
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Probed:
    """How well one kind of features tells the classes apart, by how many of them a probe may use."""

    accuracy: dict[str, float]
    """`1`, `2`, `5`, `all` -> balanced accuracy on test texts, the mean over labels against the rest; by chance 0.5."""
    advantage: dict[str, tuple[float, float]]
    """95 % interval of what the dictionary has over it, over the same drawn test texts; empty for itself."""


@dataclass(frozen=True, repr=False)
class ProbeReport(Shown):
    """The answer of `probe`."""

    WIDTH = 140

    model: str
    site: str
    classes: dict[str, int]
    """Texts of each label."""
    repeated_texts: int
    """Texts that were given again and left out, so that none is trained on and tested."""
    train_texts: int
    test_texts: int
    features: dict[str, Probed]

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        counts = ", ".join(f"{count:,} {name}" for name, count in self.classes.items())
        again = f" ({self.repeated_texts:,} given again left out)" if self.repeated_texts else ""
        yield Text(
            f"{counts}; {self.train_texts:,} texts to train on, {self.test_texts:,} to test{again}", style="bold"
        )
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("features", no_wrap=True)
        sizes = list(next(iter(self.features.values())).accuracy)
        for size in sizes:
            table.add_column(f"best {size}" if size != ALL else ALL, justify="right")
        for size in sizes:
            table.add_column(f"dictionary ahead, {size}", justify="right")
        for name, found in self.features.items():
            ahead = [f"{low:+.3f} to {high:+.3f}" for low, high in found.advantage.values()] or [""] * len(sizes)
            table.add_row(Text(name), *(f"{value:.3f}" for value in found.accuracy.values()), *ahead)
        yield table
        yield Text("Balanced accuracy, each label against the rest, chance 0.5; intervals over texts, 95 %, paired.")


def probe(
    dictionary: Dictionary,
    model: Model,
    texts: Sequence[str],
    labels: Sequence[Any],
    *,
    others: Mapping[str, Dictionary | Encoder] | None = None,
    sizes: Sequence[int] = (1, 2, 5),
    test: float = 0.3,
    steps: int | None = None,
    coding: Coding | None = None,
    site: str | None = None,
    seed: int = 0,
    resamples: int = 1000,
    check_model: bool = True,
    progress: bool = True,
) -> ProbeReport:
    """Train logistic probes that may look at few features of a text, and test them on other texts.

    A text's features are means over its tokens. For each label the features whose means differ most between its texts
    and the rest, in standard deviations, are taken. Baselines: the activation's own dimensions, its principal
    components, random directions (as many as atoms), and which tokens are in the text. A text that is there more
    than once counts once.

    Args:
        dictionary: whose codes are probed.
        model: the model it was built on.
        texts, labels: a label for every text; two kinds of labels or more.
        others: further dictionaries of the same place, or functions of activations, such as an autoencoder's encoder.
        sizes: how many features a probe may use; all of them are tried as well.
        test: share of the texts that are tested on.
        steps, coding: instead of the dictionary's own coding.
        site: where, for a dictionary that was built from a bare array.
        seed: which texts are tested on, and which directions are random.
        resamples: bootstrap draws for the intervals.
        check_model: refuse a model with other weights than the dictionary's.
        progress: draw a bar on stderr.
    Returns: the report; str() of it is a table.
    Raises: OptionError for labels that cannot be told apart; CorpusError for texts without tokens; MismatchError.
    Source: Gurnee et al. 2023, and Karvonen et al. 2025 (SAEBench), for probes on few features.
    """
    if not isinstance(sizes, Sequence):
        raise OptionError(f"sizes must be a list of numbers of features, as in (1, 5). Got {sizes!r} instead.")
    sizes = [whole("sizes", size) for size in sizes]
    if others is not None and not isinstance(others, Mapping):
        raise OptionError(f"others must be dictionaries or functions by name. Got {type(others).__name__} instead.")
    test = share("test", test)
    resamples = whole("resamples", resamples)
    seed = seed_number(seed)
    where = place_of(dictionary, model, site, check_model)
    known = _checked_labels(texts, labels)
    readable, known = _each_once([clean(text, f"Text {number}") for number, text in enumerate(texts)], known)
    capture: Mapping[str, Any] = dictionary.provenance.capture if dictionary.provenance else {}
    kinds = {OWN: _codes_of(dictionary, chosen_coding(dictionary.coding, coding, steps))}
    for name, other in (others or {}).items():
        if name in (OWN, *_BASELINES):
            raise OptionError(f"{name!r} is the name of something that is measured anyway. Choose another.")
        if isinstance(other, Dictionary):
            dictionary.check_same_place(other, repr(name))
            kinds[name] = _codes_of(other, other.coding)
        elif callable(other):
            kinds[name] = other, 0
        else:
            raise OptionError(f"{name!r} must be a Dictionary or a function. Got {type(other).__name__} instead.")
    directions = torch.randn(dictionary.width, len(dictionary), generator=seeded(seed))
    kinds |= {"activation": (lambda rows: rows, dictionary.width)}
    kinds |= {"random directions": (lambda rows: rows @ directions, len(dictionary))}
    trained, tested = _split(known, test, seed)
    pooled, tokens, counts = pool(model, where, readable, kinds, capture=capture, progress=progress)
    if not counts.all():
        missing = readable[int(np.argmin(counts))]
        raise CorpusError(f"The text {missing[:60]!r} has no token that is decomposed. Leave it and its label out.")
    pooled |= {"principal components": _components(pooled["activation"], trained), "token identity": tokens}
    names = sorted(set(known))
    with threadpool_limits(1, "blas"):  # beside another process, threads that spin took thirty times as long
        right = {
            name: {str(size or ALL): _right(matrix, known, names, trained, tested, size) for size in (*sizes, None)}
            for name, matrix in pooled.items()
        }
    targets = np.stack([known[tested] == name for name in names])
    drawn = _draws(targets, resamples, seed)
    once = np.ones((1, len(tested)), np.int64)
    features = {}
    for name, by_size in right.items():
        advantage = {}
        for asked, own in by_size.items():
            lead = _balanced(right[OWN][asked], targets, drawn) - _balanced(own, targets, drawn)
            if name != OWN:
                advantage[asked] = tuple(np.percentile(lead, [2.5, 97.5]).tolist())
        accuracy = {asked: float(_balanced(own, targets, once)[0]) for asked, own in by_size.items()}
        features[name] = Probed(accuracy, advantage)
    classes = {name: int((known == name).sum()) for name in names}
    return ProbeReport(model.id, where, classes, len(texts) - len(known), len(trained), len(tested), features)


_BASELINES = ("activation", "random directions", "principal components", "token identity")


def _codes_of(dictionary: Dictionary, coding: Coding) -> tuple[Features, int]:
    return lambda rows: dictionary.encode(rows, coding=coding), len(dictionary)


def _checked_labels(texts: Sequence[str], labels: Sequence[Any]) -> NDArray[np.str_]:
    for given in (texts, labels):
        if isinstance(given, str) or not hasattr(given, "__len__"):
            raise OptionError("probe needs a list of texts and a list of their labels.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise OptionError(f"Text {number} is no text: {text!r}.")
    missing = [number for number, label in enumerate(labels) if label is None or label != label]
    if missing:
        raise OptionError(f"Text {missing[0]} has no label. Leave it out.")
    if len(texts) != len(labels):
        raise OptionError(f"Every text needs a label. Got {len(texts)} texts and {len(labels)} labels.")
    return np.array([str(label) for label in labels])


def _each_once(texts: list[str], labels: NDArray[np.str_]) -> tuple[list[str], NDArray[np.str_]]:
    """Every text once, with its label, where there are enough of each label then."""
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        before = first.setdefault(text, number)
        if labels[before] != labels[number]:
            raise OptionError(
                f"Texts {before} and {number} are the same and have the labels {str(labels[before])!r} and "
                f"{str(labels[number])!r}. Leave one of them out."
            )
    known = labels[list(first.values())]
    names, counts = np.unique(known, return_counts=True)
    if len(names) < 2:
        raise OptionError(f"Labels must be of two kinds at least. Got only {', '.join(names) or 'none'}.")
    if counts.min() < _LEAST:
        rare = str(names[counts.argmin()])
        raise OptionError(
            f"Every label needs {_LEAST} different texts, to train and to test. {rare!r} has {counts.min()}; leave it "
            "out."
        )
    return list(first), known


def _split(labels: NDArray[np.str_], test: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.model_selection import train_test_split

    names = np.unique(labels)
    count = max(len(names), round(test * len(labels)))
    places = np.arange(len(labels))
    if count > len(labels) - len(names):
        raise OptionError(f"test={test} leaves no text of some label to train on. Lower it, or give more texts.")
    trained, tested = train_test_split(places, test_size=count, stratify=labels, random_state=seed)
    for part, least, what in ((trained, _LEAST_TO_TRAIN, "train"), (tested, 1, "test")):
        for name in names:
            there = int((labels[part] == name).sum())
            if there < least:
                way = "Lower it" if what == "train" else "Raise it"
                raise OptionError(
                    f"test={test} leaves {there} texts of {str(name)!r} to {what} on. {way}, give more texts of it, or "
                    "leave it out."
                )
    return np.sort(trained), np.sort(tested)


def _draws(targets: Flags, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each test text is in each of the bootstrap's draws (draws, tests): as many of each label as there are.

    A draw without any text of a label would say nothing about it.
    """
    generator = np.random.default_rng(seed)
    drawn = np.zeros((resamples, targets.shape[1]), np.int64)
    for own in targets:
        drawn[:, own] = generator.multinomial(own.sum(), np.full(own.sum(), 1 / own.sum()), size=resamples)
    return drawn


def _components(rows: NDArray[np.float32], trained: NDArray[np.int64]) -> NDArray[np.float32]:
    mean = rows[trained].mean(0)
    _, _, directions = np.linalg.svd(rows[trained] - mean, full_matrices=False)
    found: NDArray[np.float32] = (rows - mean) @ directions.T
    return found


def _right(
    matrix: Matrix,
    labels: NDArray[np.str_],
    names: Sequence[str],
    trained: NDArray[np.int64],
    tested: NDArray[np.int64],
    size: int | None,
) -> Flags:
    """Whether each test text is told right from the rest, or to it, for each label (labels, tests)."""
    rows = []
    scaled = _scaled(matrix, trained)
    for name in names:
        target = labels == name
        columns = None if size is None else _telling(scaled[trained], target[trained], size)
        own = scaled if columns is None else _dense(scaled[:, columns])
        rows.append(_predict(own[trained], target[trained], own[tested], few=columns is not None) == target[tested])
    return np.stack(rows)


def _scaled(matrix: Matrix, trained: NDArray[np.int64]) -> Matrix:
    """Every feature in its standard deviations, which keeps zeros zero."""
    from sklearn.preprocessing import StandardScaler

    return StandardScaler(with_mean=False).fit(matrix[trained]).transform(matrix)


def _telling(matrix: Matrix, target: Flags, size: int) -> NDArray[np.int64]:
    difference = np.asarray(matrix[target].mean(0) - matrix[~target].mean(0)).ravel()
    return np.argsort(-np.abs(difference), kind="stable")[:size]


def _dense(matrix: Matrix) -> NDArray[np.float32]:
    found: NDArray[np.float32] = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
    return found


def _predict(train: Matrix, target: Flags, test: Matrix, *, few: bool) -> Flags:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import train_test_split

    def fitted(strength: float, places: NDArray[np.int64]) -> Any:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
        return model.fit(train[places], target[places])

    everything = np.arange(len(target))
    strength = _FEW
    if not few:
        part = max(2, round(0.25 * len(target)))
        fit, check = train_test_split(everything, test_size=part, stratify=target, random_state=0)
        strength = max(
            _STRENGTHS, key=lambda c: balanced_accuracy_score(target[check], fitted(c, fit).predict(train[check]))
        )
    found: Flags = fitted(strength, everything).predict(test)
    return found


def _balanced(right: Flags, targets: Flags, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Balanced accuracy (draws,), the mean over labels, with each text counted as often as it was drawn."""
    found = []
    for own, target in zip(right, targets, strict=True):
        sides = [(drawn @ (own & side)) / (drawn @ side) for side in (target, ~target)]
        found.append((sides[0] + sides[1]) / 2)
    mean: NDArray[np.float64] = np.mean(found, axis=0)
    return mean

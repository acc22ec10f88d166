"""Concepts: sets of atoms under a name, found from labelled texts, that hold of a text or do not."""

import keyword
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from itda.data.dictionary import Dictionary, checked_dictionary
from itda.errors import OptionError
from itda.evaluation.pooling import pool
from itda.explaining import place_of
from itda.models.loading import Model
from itda.options import finite_number, whole
from itda.steer.gates import find_threshold
from itda.steer.reading import checked_texts


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A set of atoms under a name. It holds of a text that has more of them than a threshold."""

    name: str
    """A word, as rules use it: letters, digits and underscores."""
    atoms: Mapping[int, float]
    """Atom -> what its coefficient, the mean over a text's tokens, counts."""
    threshold: float
    """In the units of the activations, times the weights."""

    def __post_init__(self) -> None:
        checked_name(self.name)
        object.__setattr__(self, "threshold", finite_number("threshold", self.threshold))
        if not isinstance(self.atoms, Mapping) or not self.atoms:
            raise OptionError(f"The concept {self.name!r} has no atoms. Give at least one.")
        atoms = {whole("atom", atom, least=0): finite_number("weight", one) for atom, one in self.atoms.items()}
        object.__setattr__(self, "atoms", atoms)

    @classmethod
    def fit(
        cls, name: str, dictionary: Dictionary, model: Model, texts: Sequence[str], labels: Sequence[bool], *,
        atoms: int = 8, against: bool = True, progress: bool = True,
    ) -> Self:  # fmt: skip
        """Choose the atoms that tell texts of a kind from others, and the threshold that does so best.

        Atoms are ranked by the difference of their means in standard deviations; their weights are those of a logistic
        regression on them.

        Args:
            name: of the concept.
            dictionary, model: whose atoms, and the model it was built on.
            texts, labels: examples, and which of them are of the concept.
            atoms: at most so many.
            against: whether atoms may also speak against it. With False all weights are above zero, and what speaks
                against it can be a concept of its own, for rules to put together.
            progress: draw a bar on stderr.
        Raises: OptionError for labels of one kind, or where no atom tells them apart; CorpusError; MismatchError.
        """
        atoms = whole("atoms", atoms)
        features = text_features(dictionary, model, texts, progress=progress)
        return cls.from_features(name, features, labels, atoms=atoms, against=against)

    @classmethod
    def from_features(
        cls, name: str, features: Any, labels: Sequence[bool], *, atoms: int = 8, against: bool = True
    ) -> Self:
        """The same from features that `text_features` made.

        Raises: OptionError.
        """
        from sklearn.linear_model import LogisticRegression

        features = scipy.sparse.csr_matrix(features)
        atoms = whole("atoms", atoms)
        kinds = np.asarray(labels, bool)
        if kinds.shape != (features.shape[0],):
            raise OptionError(f"There must be a label for each text. Got {kinds.size} for {features.shape[0]}.")
        if kinds.all() or not kinds.any():
            raise OptionError(f"The concept {name!r} needs texts that are of it and texts that are not.")
        own, others = features[kinds], features[~kinds]
        squares = np.asarray(features.multiply(features).mean(0)).ravel()
        means = np.asarray(features.mean(0)).ravel()
        spread = np.sqrt(np.maximum(squares - means**2, 0))
        apart = np.asarray(own.mean(0)).ravel() - np.asarray(others.mean(0)).ravel()
        with np.errstate(divide="ignore", invalid="ignore"):
            ranked = np.where(spread > 0, apart / spread, 0)
        ranked = np.abs(ranked) if against else ranked
        best = np.argsort(-ranked, kind="stable")[:atoms]
        best = best[ranked[best] > 0]
        if not len(best):
            raise OptionError(f"No atom tells the texts of {name!r} from the others.")
        values = features[:, best].toarray()
        with threadpool_limits(1, "blas"):  # a few numbers a text: threads would only wait for each other
            fitted = LogisticRegression(class_weight="balanced", max_iter=1000).fit(values / spread[best], kinds)
        weights = fitted.coef_[0] / spread[best]
        kept = (weights != 0) if against else (weights > 0)
        if not kept.any():
            kept, weights = np.arange(len(best)) == 0, 1 / spread[best]
        found = find_threshold(torch.from_numpy(values[:, kept] @ weights[kept]), torch.from_numpy(kinds))
        chosen = {int(atom): float(weight) for atom, weight in zip(best[kept], weights[kept], strict=True)}
        return cls(name=name, atoms=chosen, threshold=found.value)

    def scores(self, features: Any) -> NDArray[np.float64]:
        """How much of it texts have, float (n,), from features (n, A) that `text_features` made."""
        values = scipy.sparse.csr_matrix(features)[:, list(self.atoms)].toarray()
        scores: NDArray[np.float64] = values @ np.array(list(self.atoms.values()))
        return scores


def text_features(dictionary: Dictionary, model: Model, texts: Sequence[str], *, progress: bool = True) -> Any:
    """How much of each atom a text has, the mean over its tokens: sparse (n, A).

    Raises: CorpusError; MismatchError for another model than the dictionary's.
    """
    site = place_of(checked_dictionary(dictionary), model, None, True)
    checked_texts(texts)
    capture = dictionary.provenance.capture if dictionary.provenance else {}
    found, _, _ = pool(
        model, site, texts, {"atoms": (dictionary.encode, len(dictionary))}, capture=capture, progress=progress
    )
    return scipy.sparse.csr_matrix(found["atoms"])


def checked_name(name: Any) -> None:
    """Refuse what rules cannot name.

    Raises: OptionError.
    """
    plain = isinstance(name, str) and unicodedata.normalize("NFKC", name) == name  # as rules are read
    if not plain or not name.isidentifier() or keyword.iskeyword(name):
        raise OptionError(f"A concept is named by one word of letters, digits and underscores. Got {name!r}.")

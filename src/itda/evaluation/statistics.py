"""Sums per document, ratios of sums, and how far a ratio would move with other documents."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Totals = Mapping[str, Floats]


class DocumentSums:
    """Named sums (numbers or vectors) for each document, float64."""

    def __init__(self) -> None:
        self._place: dict[str, int] = {}
        self._sums: dict[str, list[Floats]] = {}

    def add(self, document: str, **values: float | Floats) -> None:
        """Add to the sums of one document."""
        place = self._place.setdefault(document, len(self._place))
        for name, value in values.items():
            column = self._sums.setdefault(name, [])
            value = np.asarray(value, np.float64)
            column.extend(np.zeros_like(value) for _ in range(len(self._place) - len(column)))
            column[place] = column[place] + value

    @classmethod
    def of(cls, documents: Sequence[str], columns: Totals) -> "DocumentSums":
        """Sums that are known: of each document, in every column."""
        found = cls()
        found._place = {document: place for place, document in enumerate(documents)}
        found._sums = {name: list(column) for name, column in columns.items()}
        return found

    def extend(self, other: "DocumentSums") -> None:
        """Add the sums of other documents."""
        columns = other.table()
        for place, document in enumerate(other.documents):
            self.add(document, **{name: column[place] for name, column in columns.items()})

    def __len__(self) -> int:
        return len(self._place)

    @property
    def documents(self) -> list[str]:
        """Ids of the documents, in the order of the table."""
        return list(self._place)

    def table(self) -> dict[str, Floats]:
        """Name -> (documents,) or (documents, D)."""
        for column in self._sums.values():
            column.extend(np.zeros_like(column[0]) for _ in range(len(self._place) - len(column)))
        return {name: np.stack(column) for name, column in self._sums.items()}


def interval(
    measure: Callable[[Totals], float], table: Totals, *, resamples: int, seed: int
) -> tuple[float, float] | None:
    """95 % bootstrap interval of a measure of summed columns, by drawing documents with replacement.

    Args:
        measure: takes the sum of each column over the drawn documents.
        table: columns (documents,) or (documents, D).
        resamples: how many draws.
        seed: of the draws.
    Returns: lower and upper end; None for fewer than two documents, or where a draw leaves the measure undefined.
    """
    documents = len(next(iter(table.values())))
    if documents < 2:
        return None
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(documents, np.full(documents, 1 / documents), size=resamples).astype(np.float64)
    summed = {name: drawn @ column for name, column in table.items()}
    values = [measure({name: column[draw] for name, column in summed.items()}) for draw in range(resamples)]
    if not np.isfinite(values).all():
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)

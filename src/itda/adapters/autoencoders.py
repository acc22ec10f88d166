"""Sparse autoencoders of other libraries, whichever wrote the folder."""

from pathlib import Path

from itda.adapters import dictionary_learning, saelens, sparsify
from itda.data.dictionary import Dictionary
from itda.errors import FormatError

_READERS = {
    saelens.WEIGHTS: saelens.read,
    sparsify.WEIGHTS: sparsify.read,
    dictionary_learning.WEIGHTS: dictionary_learning.read,
}
"""By the file that only they write."""


def read(folder: str | Path) -> Dictionary:
    """Read an autoencoder of SAELens, sparsify or dictionary_learning as a dictionary of directions.

    Raises: FormatError if the folder holds none of them, or what the reader of its kind says.
    """
    where = Path(folder)
    if not where.is_dir():
        raise FormatError(f"There is no folder {where}. Check the path.")
    for weights, reader in _READERS.items():
        if (where / weights).exists():
            return reader(where)
    raise FormatError(
        f"{where} holds no autoencoder of SAELens ({saelens.WEIGHTS}), sparsify ({sparsify.WEIGHTS}) or "
        f"dictionary_learning ({dictionary_learning.WEIGHTS}). Give the folder of one layer."
    )

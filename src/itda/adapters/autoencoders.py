"""Sparse autoencoders of other libraries, whichever wrote the folder."""

from pathlib import Path

from itda.adapters import dictionary_learning, saelens, sparsify
from itda.adapters.directions import with_examples
from itda.data.activations import Activations
from itda.data.dictionary import Dictionary
from itda.errors import FormatError

_READERS = {
    saelens.WEIGHTS: saelens.read,
    sparsify.WEIGHTS: sparsify.read,
    dictionary_learning.WEIGHTS: dictionary_learning.read,
}
"""By the file that only they write."""


def read(folder: str | Path, *, examples: Activations | None = None) -> Dictionary:
    """Read an autoencoder of SAELens, sparsify or dictionary_learning as a dictionary of directions.

    Args:
        folder: as its library wrote it.
        examples: activations of the place it was trained on; each direction then has the text of the one most like it.
    Raises: FormatError if the folder holds none of them, or what the reader of its kind says; OptionError,
        ActivationError and ShapeError for examples of what has sources, that are of no text, or of another width.
    """
    where = Path(folder)
    if not where.is_dir():
        raise FormatError(f"There is no folder {where}. Check the path.")
    for weights, reader in _READERS.items():
        if (where / weights).exists():
            found = reader(where)
            return found if examples is None else with_examples(found, examples)
    raise FormatError(
        f"{where} holds no autoencoder of SAELens ({saelens.WEIGHTS}), sparsify ({sparsify.WEIGHTS}) or "
        f"dictionary_learning ({dictionary_learning.WEIGHTS}). Give the folder of one layer."
    )

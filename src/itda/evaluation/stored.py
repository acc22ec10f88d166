"""What a dictionary is worth on activations that are already there: all but the losses, for which a model must run."""

import torch

from itda import progress as progress_bars
from itda.data.activations import Activations
from itda.data.dictionary import Dictionary
from itda.data.entries import RowsOnDisk
from itda.errors import CorpusError, ShapeError
from itda.evaluation.measuring import Measurement
from itda.evaluation.replacements import Replacements
from itda.evaluation.report import Report
from itda.options import whole
from itda.pursuit import Coding, checked_coding

_ROWS_AT_ONCE = 4096


def evaluate_activations(
    dictionary: Dictionary,
    activations: Activations | RowsOnDisk,
    *,
    steps: int | None = None,
    coding: Coding | None = None,
    seed: int = 0,
    resamples: int = 1000,
    backend: str = "auto",
    memory: int | str | None = None,
    progress: bool = True,
) -> Report:
    """Measure a dictionary on captured activations of documents it was not built from.

    Args:
        dictionary: what is measured.
        activations: of its model and site; rows of documents that it was built from are left out.
        steps, coding: instead of the dictionary's own coding.
        seed: of the intervals.
        resamples: bootstrap draws for the intervals.
        backend: of the pursuit.
        memory: what inner products of the atoms may take, in bytes or as "2GiB"; None for half of what is free.
        progress: draw a bar on stderr.
    Returns: the report, without losses and without random atoms, which only the model could give.
    Raises: CorpusError if no row is held out; MismatchError for activations of another model or site; ShapeError.
    """
    if not isinstance(activations, Activations | RowsOnDisk):
        raise ShapeError(
            f"evaluate_activations takes Activations or StoredActivations. Got {type(activations).__name__}; "
            "capture them first."
        )
    whole("resamples", resamples)
    given = activations.whole() if isinstance(activations, RowsOnDisk) else activations
    dictionary.check_activations(given)
    used = checked_coding(coding or dictionary.coding).with_options(steps=steps)
    if memory is not None:
        dictionary.prepare(memory=memory)
    built_from = set(dictionary.documents)
    replacements = Replacements(dictionary, used, randoms=None, baselines=True, backend=backend)
    measured = Measurement(dictionary, used, backend, replacements)
    with progress_bars.bar("evaluate", len(given), show=progress) as advance:
        for rows, sources in given.blocks(_ROWS_AT_ONCE):
            documents = [sources.windows[place].document for place in sources.window.tolist()]
            held_out = torch.tensor([document not in built_from for document in documents])
            own = [document for document, kept in zip(documents, held_out.tolist(), strict=True) if kept]
            if own:
                measured.take(rows[held_out], sources.token_id[held_out], own, torch.ones(len(own), dtype=torch.bool))
            advance(len(rows))
    excluded = sum(document in built_from for document in given.documents)
    if not len(measured.tally.sums):
        raise CorpusError(
            f"The dictionary was built from all {excluded:,} documents of these activations, so none is held out. "
            "Capture other text, or all of it: held-out documents too (itda capture --held-out 0)."
        )
    return measured.tally.report(
        model=given.provenance.model.id, site=given.provenance.site, excluded=excluded, resamples=resamples, seed=seed
    )

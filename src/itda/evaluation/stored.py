"""What a dictionary is worth on activations that are already there: all but the losses, for which a model must run."""

from collections.abc import Mapping
from typing import Any

import torch

from itda import progress as progress_bars
from itda.data.activations import Activations
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.entries import RowsOnDisk
from itda.errors import CorpusError, MismatchError, ShapeError
from itda.evaluation.measuring import Measurement
from itda.evaluation.replacements import Replacements
from itda.evaluation.report import Report
from itda.options import whole
from itda.pursuit import Coding, chosen_coding

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
    Returns: the report, without losses and without random atoms, which only the model could give. Sinks, by the norm
        that the dictionary's own text gave, are not decomposed.
    Raises: CorpusError if no row is held out; MismatchError for activations of another model or site, or of tokens
        that the dictionary leaves out; ShapeError.
    """
    if not isinstance(activations, Activations | RowsOnDisk):
        raise ShapeError(
            f"evaluate_activations takes Activations or StoredActivations. Got {type(activations).__name__}; "
            "capture them first."
        )
    checked_dictionary(dictionary)
    resamples = whole("resamples", resamples)
    given = activations.whole() if isinstance(activations, RowsOnDisk) else activations
    dictionary.check_activations(given)
    captured: Mapping[str, Any] = dictionary.provenance.capture if dictionary.provenance else {}
    _check_tokens(captured, given.provenance.capture)
    longest = captured.get("sink_norm") if captured.get("sinks") == "drop" else None
    used = chosen_coding(dictionary.coding, coding, steps)
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
                norms = torch.linalg.vector_norm(rows[held_out].float(), dim=1)
                keep = norms <= (float("inf") if longest is None else longest)
                measured.tally.left_out["sink"] += int((~keep).sum())
                measured.take(rows[held_out], sources.token_id[held_out], own, keep)
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


def _check_tokens(own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a capture that has tokens which that of the dictionary left out; rows do not say which those are."""
    if own.get("special_tokens") == "drop" and given.get("special_tokens") != "drop":
        raise MismatchError(
            "These activations have special tokens, which the dictionary leaves out. Capture without them "
            "(special_tokens='drop'), or evaluate with the model: itda.evaluate."
        )
    roles = own.get("roles")
    if roles and not set(given.get("roles") or [None]) <= set(roles):
        raise MismatchError(
            f"The dictionary is of what {', '.join(roles)} says, these activations are of others too. Capture them "
            f"with roles={list(roles)!r}."
        )

"""Activations -> dictionary: `build`, `build_many` and `build_from_activations`."""

from collections.abc import Sequence
from typing import Any

import torch

from itda import progress as progress_bars
from itda.building.builder import Builder
from itda.building.request import BuildRequest
from itda.capturing import Capture, CaptureOptions
from itda.data.activations import Activations
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary
from itda.data.sources import Sources
from itda.errors import OptionError
from itda.models.loading import Model, checked_model
from itda.options import checked
from itda.shapes import as_matrix

__all__ = ["BuildRequest", "Builder", "build", "build_from_activations", "build_many"]

_ROWS_AT_ONCE = 4096


def build(
    model: Model,
    corpus: Corpus,
    *,
    site: str | None = None,
    tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Dictionary:
    """Build a dictionary of real activations from a model reading a corpus.

    Args:
        model: from `load_model` or `wrap`.
        corpus: what it reads; its documents are remembered, and evaluation leaves them out.
        site: the place in the model; the residual stream after the middle layer by default.
        tokens: how many rows to read, spread evenly over the documents; all by default.
        seed: which tokens are read when not all are.
        progress: draw a bar on stderr.
        options: fields of `BuildRequest` (atoms, steps, method, max_unexplained, max_cosine_gap, coding,
            center, block, backend) and of `itda.capturing.CaptureOptions`.
    Returns: the dictionary, in memory.
    Raises: OptionError, CorpusError, SiteError, ModelError, ActivationError.
    """
    if not isinstance(site, str | None):
        raise OptionError(f"build takes one site. Got {site!r}; for several use build_many(..., sites=[...]).")
    site = site or checked_model(model).middle_site
    return build_many(model, corpus, sites=[site], tokens=tokens, seed=seed, progress=progress, **options)[site]


def build_many(
    model: Model,
    corpus: Corpus,
    *,
    sites: Sequence[str],
    tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> dict[str, Dictionary]:
    """Build a dictionary at each of several sites from one pass of the model.

    Args: as `build`, but for `sites`: the places, each once.
    Returns: site -> dictionary, each the same as `build` would make alone.
    Raises: as `build`.
    """
    own = set(BuildRequest.__dataclass_fields__)
    request = checked(BuildRequest, {name: value for name, value in options.items() if name in own})
    rest = {name: value for name, value in options.items() if name not in own}
    unknown = [name for name in rest if name not in CaptureOptions.__dataclass_fields__]
    if unknown:
        known = sorted(own | set(CaptureOptions.__dataclass_fields__))
        raise OptionError(f"There is no option {', '.join(map(repr, unknown))}. The options are {', '.join(known)}.")
    run = Capture(model, corpus, sites, CaptureOptions(tokens=tokens, seed=seed, **rest))
    builders: dict[str, Builder] = {}
    with progress_bars.bar("build", run.total, show=progress) as advance:
        for blocks in run:
            for name, (rows, sources) in blocks.items():
                if name not in builders:
                    builders[name] = request.builder(rows.shape[1], run.total)
                builders[name].update(rows, sources)
            advance(len(blocks[sites[0]].rows))
        return {
            name: builder.finish(provenance=run.provenance(name), documents=run.documents, seed=seed)
            for name, builder in builders.items()
        }


def build_from_activations(rows: Any, *, progress: bool = True, **options: Any) -> Dictionary:
    """Build a dictionary from rows that are already there, in their order.

    Args:
        rows: Activations, which bring their sources; or any matrix (N, D), which gets its row numbers.
        progress: draw a bar on stderr.
        options: fields of `BuildRequest`.
    Returns: the dictionary; without a model or site if `rows` is a bare matrix.
    Raises: ShapeError, ActivationError, OptionError.
    """
    request = checked(BuildRequest, options)
    taken = rows if isinstance(rows, Activations) else None
    matrix = as_matrix(taken.rows if taken else rows, "rows", "N, D")
    sources = taken.sources if taken else Sources.of_rows(len(matrix))
    builder = request.builder(matrix.shape[1], len(matrix))
    with progress_bars.bar("build", len(matrix), show=progress) as advance:
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            places = torch.arange(start, min(start + _ROWS_AT_ONCE, len(matrix)))
            builder.update(matrix[start : start + _ROWS_AT_ONCE], sources.select(places))
            advance(len(places))
        return builder.finish(
            provenance=taken.provenance if taken else None, documents=taken.documents if taken else ()
        )

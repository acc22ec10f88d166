"""Activations -> dictionary: `build`, `build_many` and `build_from_activations`; dictionaries -> one: `merge`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itda import progress as progress_bars
from itda.building import resuming
from itda.building.builder import Builder
from itda.building.merging import merge
from itda.building.request import BuildRequest
from itda.capturing import Capture, CaptureOptions, Position
from itda.data.activations import Activations, BareRows
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary
from itda.data.entries import StoredActivations
from itda.errors import OptionError
from itda.models.loading import Model, checked_model
from itda.options import checked
from itda.shapes import as_matrix

__all__ = ["BuildRequest", "Builder", "build", "build_from_activations", "build_many", "merge"]

_ROWS_AT_ONCE = 4096


def build(
    model: Model,
    corpus: Corpus,
    *,
    site: str | None = None,
    tokens: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: float = 60.0,
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
        checkpoint: a folder in which the build leaves what it needs to go on after a stop; it stays until it is
            removed. The same build with the same folder goes on, and ends with the same dictionary.
        every: seconds between two checkpoints.
        progress: draw a bar on stderr.
        options: fields of `BuildRequest` (atoms, steps, method, max_unexplained, max_cosine_gap, coding,
            center, block, backend) and of `itda.capturing.CaptureOptions`.
    Returns: the dictionary, in memory.
    Raises: OptionError, CorpusError, SiteError, ModelError, ActivationError; MismatchError for the checkpoint of
        another build; OutputError if that cannot be written or another process holds it.
    """
    if not isinstance(site, str | None):
        raise OptionError(f"build takes one site. Got {site!r}; for several use build_many(..., sites=[...]).")
    site = site or checked_model(model).middle_site
    return build_many(
        model, corpus, sites=[site], tokens=tokens, seed=seed, checkpoint=checkpoint, every=every, progress=progress,
        **options,
    )[site]  # fmt: skip


def build_many(
    model: Model,
    corpus: Corpus,
    *,
    sites: Sequence[str],
    tokens: int | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: float = 60.0,
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
    facts = {"build": request.facts(), "rows": {name: run.asked(name).to_dict() for name in sites}}
    with (
        resuming.opened(checkpoint, facts, every=every) as kept,
        progress_bars.bar("build", run.total, show=progress) as advance,
    ):
        builders = resuming.restored(kept, request, run.total)
        run.positions |= {name: Position.from_dict(after) for name, (_, after) in builders.items()}
        going = {name: builder for name, (builder, _) in builders.items()}
        advance(sum(position.counts["rows"] for position in run.positions.values()) / len(sites))
        run.scratch = kept.folder / "hidden" if kept else None
        for blocks in run:
            for name, (rows, sources) in blocks.items():
                if name not in going:
                    going[name] = request.builder(rows.shape[1], run.total)
                going[name].update(rows, sources)
                advance(len(rows) / len(sites))
            save = resuming.step if blocks else resuming.save
            save(kept, going, {name: run.positions[name].to_dict() for name in going})
        resuming.save(kept, going, {name: run.positions[name].to_dict() for name in going})
        return {
            name: builder.finish(provenance=run.provenance(name), documents=run.documents)
            for name, builder in going.items()
        }


def build_from_activations(
    rows: Any, *, checkpoint: str | Path | None = None, every: float = 60.0, progress: bool = True, **options: Any
) -> Dictionary:
    """Build a dictionary from rows that are already there, in their order.

    Args:
        rows: Activations or StoredActivations, which bring their sources; or any matrix (N, D), which gets its
            row numbers.
        checkpoint, every: as for `build`.
        progress: draw a bar on stderr.
        options: fields of `BuildRequest`.
    Returns: the dictionary; without a model or site if `rows` is a bare matrix.
    Raises: ShapeError, ActivationError, OptionError; as `build` with a checkpoint.
    """
    request = checked(BuildRequest, options)
    given = _in_blocks(rows)
    with (
        resuming.opened(checkpoint, {"build": request.facts(), "rows": given.fingerprint}, every=every) as kept,
        progress_bars.bar("build", len(given), show=progress) as advance,
    ):
        builders = resuming.restored(kept, request, len(given))
        builder, done = builders.get("", (None, {"rows": 0}))
        builder = builder or request.builder(given.width, len(given))
        first = done["rows"]
        advance(first)
        for block in given.blocks(_ROWS_AT_ONCE, first=first):
            builder.update(block.rows, block.sources)
            first += len(block.rows)
            advance(len(block.rows))
            resuming.step(kept, {"": builder}, {"": {"rows": first}})
        resuming.save(kept, {"": builder}, {"": {"rows": first}})
        return builder.finish(provenance=given.provenance, documents=given.documents)


def _in_blocks(rows: Any) -> Activations | StoredActivations | BareRows:
    """Whatever the rows are, as something that gives them in blocks."""
    if isinstance(rows, StoredActivations):
        return rows.whole()
    if isinstance(rows, Activations):
        as_matrix(rows.rows, "rows", "N, D")
        return rows
    return BareRows(as_matrix(rows, "rows", "N, D"))

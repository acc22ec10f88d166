"""Activations -> dictionary: `build`, `build_many`, `build_from_activations`, `extend`; several -> one: `merge`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itda import logs
from itda import progress as progress_bars
from itda.building.builder import Builder
from itda.building.extending import extend, extend_from_activations
from itda.building.merging import merge
from itda.building.request import NAMELESS, BuildRequest, default_atoms
from itda.building.running import built_from_model, built_from_rows
from itda.capturing import Capture, CaptureOptions
from itda.data.activations import Activations, BareRows
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary
from itda.data.entries import RowsOnDisk
from itda.data.sources import Sources
from itda.errors import OptionError
from itda.models.loading import Model, checked_model
from itda.options import checked
from itda.shapes import as_matrix

__all__ = [
    "NAMELESS",
    "BuildRequest",
    "Builder",
    "build",
    "build_from_activations",
    "build_many",
    "built_from_model",
    "built_from_rows",
    "default_atoms",
    "extend",
    "extend_from_activations",
    "merge",
    "split_options",
]


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
        seed: which tokens are read when not all are, and every random choice of the build.
        checkpoint: a folder in which the build leaves what it needs to go on after a stop; it stays until it is
            removed. The same build with the same folder goes on, and ends with the same dictionary.
        every: seconds between two checkpoints.
        progress: draw a bar on stderr.
        options: fields of `BuildRequest` (atoms, steps, method, max_unexplained, max_cosine_gap, coding,
            center, block, pool, passes, rounds, parts, kept, backend) and of `itda.capturing.CaptureOptions`.
    Returns: the dictionary, in memory.
    Raises: OptionError, CorpusError, SiteError, ModelError, ActivationError; MismatchError for the checkpoint of
        another build; OutputError if that cannot be written or another process holds it.
    """
    if not isinstance(site, str | None):
        raise OptionError(f"build takes one site. Got {site!r}; for several use build_many(..., sites=[...]).")
    site = checked_model(model).site(site or model.middle_site).name
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
    request, capture_options = split_options({**options, "seed": seed})
    run = Capture(model, corpus, sites, CaptureOptions(tokens=tokens, **capture_options))
    with progress_bars.bar("build", run.total, show=progress) as bar:
        built = built_from_model(run, request, checkpoint=checkpoint, every=every, bar=bar)
    for name, (dictionary, _) in built.items():
        _tell(name, dictionary)
    return {name: dictionary for name, (dictionary, _) in built.items()}


def build_from_activations(
    rows: Any,
    *,
    sources: Any = None,
    checkpoint: str | Path | None = None,
    every: float = 60.0,
    progress: bool = True,
    **options: Any,
) -> Dictionary:
    """Build a dictionary from rows that are already there, in their order.

    Args:
        rows: Activations or StoredActivations, which bring their sources; or any matrix (N, D), which gets its
            row numbers.
        sources: where the rows of a bare matrix come from: a name for each (`recording 3`), or a table with the columns
            `item`, and if wanted `position` (a number) and `label` (what is read for it, as `patch 3, 4`).
        checkpoint, every: as for `build`.
        progress: draw a bar on stderr.
        options: fields of `BuildRequest`.
    Returns: the dictionary; without a model or site if `rows` is a bare matrix.
    Raises: ShapeError, ActivationError, OptionError; as `build` with a checkpoint.
    """
    request = checked(BuildRequest, options)
    given = _in_blocks(rows, sources)
    with progress_bars.bar("build", len(given), show=progress) as bar:
        dictionary = built_from_rows(given, request, checkpoint=checkpoint, every=every, bar=bar).dictionary
    _tell(dictionary.site if dictionary.provenance else "rows", dictionary)
    return dictionary


def _tell(place: str, dictionary: Dictionary) -> None:
    build = dictionary.build
    found = {"atoms": len(dictionary), "rows": build.rows, "unexplained": build.unexplained}
    logs.metrics(f"build/{place}", {**found, "threshold": build.threshold})


def split_options(options: Mapping[str, Any]) -> tuple[BuildRequest, dict[str, Any]]:
    """The build's own among some options, and those of the capture; the seed is for both.

    Raises: OptionError for a name that neither has.
    """
    own, others = set(BuildRequest.__dataclass_fields__), set(CaptureOptions.__dataclass_fields__)
    unknown = [name for name in options if name not in own | others]
    if unknown:
        known = ", ".join(sorted(own | others))
        raise OptionError(f"There is no option {', '.join(map(repr, unknown))}. The options are {known}.")
    request = BuildRequest(**{name: value for name, value in options.items() if name in own})
    return request, {name: value for name, value in options.items() if name in others}


def _in_blocks(rows: Any, sources: Any = None) -> Activations | RowsOnDisk | BareRows:
    """Whatever the rows are, as something that gives them in blocks."""
    if sources is not None and isinstance(rows, RowsOnDisk | Activations):
        raise OptionError("These activations bring their sources. Leave sources= out, or give their .rows.")
    if isinstance(rows, RowsOnDisk):
        return rows.whole()
    if isinstance(rows, Activations):
        as_matrix(rows.rows, "rows", "N, D")
        return rows
    return BareRows(as_matrix(rows, "rows", "N, D"), None if sources is None else Sources.of_table(sources))

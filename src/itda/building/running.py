"""Rows through builders, from a model or from where they are kept, with checkpoints on the way."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from itda.building import resuming
from itda.building.request import BuildRequest
from itda.capturing import Capture, Position
from itda.data.activations import Activations, BareRows
from itda.data.checkpoints import saved_first
from itda.data.dictionary import Dictionary
from itda.data.entries import RowsOnDisk
from itda.progress import Bar

_ROWS_AT_ONCE = 4096


class Built(NamedTuple):
    """A dictionary and some of the rows it was built from, by which it can be merged with others."""

    dictionary: Dictionary
    sample: Tensor
    """float32 (n, D), evenly over all rows."""


def built_from_model(
    run: Capture, request: BuildRequest, *, checkpoint: str | Path | None, every: float, bar: Bar
) -> dict[str, Built]:
    """A dictionary at each site of a capture.

    Args:
        run: the capture.
        request: how each is built.
        checkpoint, every: as for `build`.
        bar: told how many rows there are more, and what comes after them.
    Raises: as `build`.
    """
    names = [site.name for site in run.sites]
    facts = {"build": request.facts(), "rows": {name: run.asked(name).to_dict() for name in names}}
    with resuming.opened(checkpoint, facts, every=every) as kept:
        builders = resuming.restored(kept, request, run.total)
        run.positions |= {name: Position.from_dict(after) for name, (_, after) in builders.items()}
        going = {name: builder for name, (builder, _) in builders.items()}
        bar(sum(position.counts["rows"] for position in run.positions.values()) / len(names))
        run.scratch = kept.folder / "hidden" if kept else None
        after = _after(run, going)
        for blocks in saved_first(run, lambda: resuming.save(kept, going, after)):
            for name, (rows, sources) in blocks.items():
                if name not in going:
                    going[name] = request.builder(rows.shape[1], run.total)
                going[name].update(rows, sources)
                bar(len(rows) / len(names))
            after.update(_after(run, going))
            save = resuming.step if blocks else resuming.save
            save(kept, going, after)
        resuming.save(kept, going, after)
        return {
            name: Built(
                builder.finish(provenance=run.provenance(name), documents=run.documents, bar=bar), builder.sample
            )
            for name, builder in going.items()
        }


def built_from_rows(
    given: Activations | RowsOnDisk | BareRows,
    request: BuildRequest,
    *,
    checkpoint: str | Path | None,
    every: float,
    bar: Bar,
) -> Built:
    """A dictionary from rows that are already there, in their order; as `built_from_model`."""
    facts = {"build": request.facts(), "rows": given.fingerprint}
    with resuming.opened(checkpoint, facts, every=every) as kept:
        builders = resuming.restored(kept, request, len(given))
        builder, done = builders.get("", (None, {"rows": 0}))
        builder = builder or request.builder(given.width, len(given))
        first = done["rows"]
        bar(first)
        going, after = {"": builder}, {"": {"rows": first}}
        blocks = given.blocks(_ROWS_AT_ONCE, first=first)
        for block in saved_first(blocks, lambda: resuming.save(kept, going, after)):
            builder.update(block.rows, block.sources)
            after[""]["rows"] += len(block.rows)
            bar(len(block.rows))
            resuming.step(kept, going, after)
        resuming.save(kept, going, after)
        dictionary = builder.finish(provenance=given.provenance, documents=given.documents, bar=bar)
        return Built(dictionary, builder.sample)


def _after(run: Capture, going: resuming.Builders) -> dict[str, dict[str, Any]]:
    """What each builder has seen, as it is now: a capture that fails has counted more than it gave."""
    return {name: run.positions[name].to_dict() for name in going}

"""A capture into a store: what is there is not computed again, and what was begun is gone on with."""

import shutil
import time
from contextlib import ExitStack

from itda.capturing.position import Position
from itda.capturing.running import Capture
from itda.data.activations import Block
from itda.data.entries import StoredActivations
from itda.data.entry_writing import EntryWriter
from itda.data.store import Store
from itda.options import seconds
from itda.progress import Advance


def finished(store: Store, run: Capture, *, dtype: str) -> dict[str, StoredActivations] | None:
    """Site -> its entry, where a store has all of a capture: nothing is tokenized then, or computed."""
    found = {site.name: store.finished(run.asked(site.name), dtype) for site in run.sites}
    return {site: entry for site, entry in found.items() if entry} if all(found.values()) else None


def capture_into(
    store: Store, run: Capture, *, dtype: str, every: float, advance: Advance
) -> dict[str, StoredActivations]:
    """Take the activations of a capture into a store.

    Args:
        store: where they go.
        run: the capture; its sites become an entry each.
        dtype: what rows are stored as.
        every: seconds after which what was taken is made safe, besides every full shard.
        advance: told how many rows there are more.
    Returns: site -> its entry.
    Raises: OutputError if another process writes one of the entries, or the disk is full; as `capture`.
    """
    seconds("every", every)
    with ExitStack() as held:
        writers = {
            site.name: held.enter_context(
                store.writer(run.asked(site.name), documents=run.documents, rows=run.total, dtype=dtype)
            )
            for site in run.sites
        }
        for name, writer in writers.items():
            for place in writer.missing:
                writer.repair(place, _shard(run, name, writer, place))
            run.positions[name] = Position.from_dict(writer.after) if writer.after else Position()
        begun = {name: writer for name, writer in writers.items() if not writer.complete}
        run.scratch = store.scratch([run.asked(name) for name in writers])
        advance(sum(map(len, writers.values())) / len(writers))
        safe = time.monotonic()
        for blocks in run.blocks(begun) if begun else ():
            for name, block in blocks.items():
                begun[name].append(block, run.positions[name].to_dict())
                advance(len(block.rows) / len(writers))
            if not blocks or time.monotonic() - safe > every:
                for writer in begun.values():
                    writer.checkpoint()
                safe = time.monotonic()
        stored = {name: writer.finish(run.provenance(name)) for name, writer in writers.items()}
        shutil.rmtree(run.scratch, ignore_errors=True)
        return stored


def _shard(run: Capture, name: str, writer: EntryWriter, place: int) -> list[Block]:
    """The blocks of one shard, captured again."""
    run.positions[name] = Position.from_dict(writer.shards[place - 1].after) if place else Position()
    found: list[Block] = []
    for blocks in run.blocks([name]):
        found += blocks.values()
        if sum(len(block.rows) for block in found) >= writer.shards[place].rows:
            break
    return found

"""Builders in a checkpoint: what every build does to go on after a stop, whatever its rows come from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from itda.building.builder import Builder
from itda.building.request import BuildRequest
from itda.data.build_records import library_versions
from itda.data.checkpoints import Checkpoint, Saved

Builders = Mapping[str, Builder]
"""By the site of their rows."""
After = Mapping[str, Mapping[str, Any]]
"""For each builder, which rows it has seen, in the words of whoever gives them."""


@contextmanager
def opened(folder: str | Path | None, run: Mapping[str, Any], *, every: float) -> Iterator[Checkpoint | None]:
    """The checkpoint of a build in a folder; None without one.

    Args:
        folder: where it is.
        run: what makes it the same build.
        every: seconds between two states.
    Raises: OutputError if another process holds it.
    """
    if folder is None:
        yield None
        return
    with Checkpoint(folder, {**run, "versions": library_versions()}, every=every) as checkpoint:
        yield checkpoint


def restored(
    checkpoint: Checkpoint | None, request: BuildRequest, rows: int
) -> dict[str, tuple[Builder, Mapping[str, Any]]]:
    """The builders as they were, each with what it had seen; none at the beginning.

    Raises: MismatchError if the checkpoint belongs to another build.
    """
    saved = checkpoint.load() if checkpoint else None
    if saved is None:
        return {}
    builders = {}
    for file, (name, after) in zip(_files(len(saved.facts["after"])), saved.facts["after"], strict=True):
        state = saved.tensors[file]
        builder = request.builder(int(state["width"]), rows)
        builder.restore(state)
        builders[name] = builder, after
    return builders


def step(checkpoint: Checkpoint | None, builders: Builders, after: After) -> None:
    """Save, if it is time to.

    Raises: KeyboardInterrupt after it was saved, if the user wants to stop; OutputError.
    """
    if checkpoint:
        checkpoint.step(lambda: _state(builders, after))


def save(checkpoint: Checkpoint | None, builders: Builders, after: After) -> None:
    """Save now.

    Raises: OutputError.
    """
    if checkpoint:
        checkpoint.save(_state(builders, after))


def _state(builders: Builders, after: After) -> Saved:
    order = [[name, dict(after[name])] for name in builders]
    return Saved({"after": order}, dict(zip(_files(len(order)), (b.state() for b in builders.values()), strict=True)))


def _files(count: int) -> list[str]:
    return [f"builder-{place}" for place in range(count)]

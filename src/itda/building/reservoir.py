"""Rows kept of a stream of any length, every one with the same chance."""

import torch
from torch import Tensor

from itda.building.builder import State, named, part
from itda.data.lots import evenly, lots
from itda.data.sources import Sources
from itda.pursuit.buffers import GrowingMatrix

_TOGETHER = 4096  # rows that are copied together


class Reservoir:
    """The rows with the smallest lots, at most `size`, each with its source.

    What is kept depends on the rows' order alone, not on the pieces they come in. Every s-th row would meet the rhythm
    of the windows: with windows of 128 tokens and every 1024th row, all were first in their window. Rows that a model
    in bfloat16 gave are kept in 16 bits, which loses nothing.
    """

    def __init__(self, width: int, size: int, *, sources: bool = True) -> None:
        self.width, self.size = width, size
        self._rows = GrowingMatrix(width, torch.bfloat16)
        self._sources: list[Sources] | None = [] if sources else None
        self._order = torch.empty(0, dtype=torch.int64)  # which row of the stream each one is
        self._place = torch.empty(0, dtype=torch.int64)  # and where its source stands
        self._seen = 0

    def __len__(self) -> int:
        return len(self._rows.filled)

    @property
    def rows(self) -> Tensor:
        """float32 (n, D), a copy, in the order of the stream."""
        return self.some(len(self))

    def some(self, count: int) -> Tensor:
        """At most so many of the rows, evenly over them."""
        places = torch.argsort(self._order)[evenly(len(self), count)]
        found = torch.empty(len(places), self.width)
        for target, own in zip(torch.split(found, _TOGETHER), torch.split(places, _TOGETHER), strict=True):
            target.copy_(self._rows.filled[own])
        return found

    @property
    def sources(self) -> Sources:
        """Of the rows."""
        return self._known.select(self._place[torch.argsort(self._order)])

    def update(self, rows: Tensor, sources: Sources) -> None:
        """Take rows float32 (n, D)."""
        coming = torch.arange(self._seen, self._seen + len(rows))
        drawn = torch.cat([lots(self._order), lots(coming)])
        self._seen += len(rows)
        stay = torch.ones(len(drawn), dtype=torch.bool)
        stay[torch.topk(drawn, max(0, len(drawn) - self.size)).indices] = False
        leave, enter = torch.nonzero(~stay[: len(self)])[:, 0], torch.nonzero(stay[len(self) :])[:, 0]
        if not len(enter):
            return
        places = self._know(sources, enter)
        # Who comes in takes the place of who leaves; the order of the stream is found again when it is asked for
        instead, more = enter[: len(leave)], enter[len(leave) :]
        short = self._fitting(rows[enter])
        if len(leave):
            self._rows.filled[leave] = short[: len(leave)]
            self._order[leave], self._place[leave] = coming[instead], places[: len(leave)]
        if len(more):
            self._rows.append(short[len(leave) :])
            self._order = torch.cat([self._order, coming[more]])
            self._place = torch.cat([self._place, places[len(leave) :]])

    @property
    def _known(self) -> Sources:
        assert self._sources is not None
        self._sources = [Sources.concatenate(self._sources)]
        return self._sources[0]

    def _know(self, sources: Sources, rows: Tensor) -> Tensor:
        """Take in the sources of some rows; where they stand."""
        if self._sources is None:
            return torch.zeros_like(rows)
        held = sum(map(len, self._sources))
        if held > 2 * self.size:  # those of rows that have left
            self._sources = [self._known.select(self._place)]
            self._place, held = torch.arange(len(self)), len(self)
        self._sources.append(sources.select(rows))
        return torch.arange(held, held + len(rows))

    def _fitting(self, rows: Tensor) -> Tensor:
        """The rows in the kind of number that is kept, which becomes float32 with the first row that needs it."""
        short = rows.bfloat16()
        if self._rows.filled.dtype == torch.bfloat16 and not torch.equal(short.float(), rows):
            wider = GrowingMatrix(self.width, torch.float32)
            wider.append(self._rows.filled.float())
            self._rows = wider
        return short if self._rows.filled.dtype == torch.bfloat16 else rows

    def state(self) -> State:
        """All that `restore` needs to go on."""
        order = torch.argsort(self._order)
        rows = self._rows.filled[order]
        state: State = {"rows": rows, "order": self._order[order], "seen": torch.tensor(self._seen)}
        return state | (named("sources", self.sources.to_tensors()) if self._sources is not None else {})

    def restore(self, state: State) -> None:
        """Go on from `state`."""
        self._rows = GrowingMatrix(self.width, state["rows"].dtype)
        self._rows.append(state["rows"])
        self._order, self._seen = state["order"].clone(), int(state["seen"])
        self._place = torch.arange(len(self))
        if self._sources is not None:
            self._sources = [Sources.from_tensors(part(state, "sources"))]

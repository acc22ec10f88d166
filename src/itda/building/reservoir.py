"""Rows kept of a stream of any length, evenly over all that came."""

import torch
from torch import Tensor

from itda.building.builder import State, named, part
from itda.data.sources import Sources
from itda.pursuit.buffers import GrowingMatrix


class Reservoir:
    """Every s-th row with its source, s doubling so that there are never more than `size`.

    What is kept depends on the rows and their order alone, not on the pieces they come in. Rows that a model in
    bfloat16 gave are kept in 16 bits, which loses nothing.
    """

    def __init__(self, width: int, size: int, *, sources: bool = True) -> None:
        self.width, self.size = width, size
        self._rows = GrowingMatrix(width, torch.bfloat16)
        self._sources: list[Sources] | None = [] if sources else None
        self._stride, self._seen = 1, 0

    def __len__(self) -> int:
        return len(self._rows.filled)

    @property
    def rows(self) -> Tensor:
        """float32 (n, D), a copy."""
        return self._rows.filled.to(torch.float32, copy=True)

    @property
    def sources(self) -> Sources:
        """Of the rows."""
        assert self._sources is not None
        self._sources = [Sources.concatenate(self._sources)]
        return self._sources[0]

    def update(self, rows: Tensor, sources: Sources) -> None:
        """Take rows float32 (n, D)."""
        while True:
            places = torch.arange(len(rows))[-self._seen % self._stride :: self._stride]
            if len(self) + len(places) <= self.size:
                break
            if len(places) > self.size:  # halve what comes, so that what is held stays small
                middle = len(rows) // 2
                self.update(rows[:middle], sources.select(torch.arange(middle)))
                self.update(rows[middle:], sources.select(torch.arange(middle, len(rows))))
                return
            self._thin()
        self._append(rows[places], sources.select(places) if self._sources is not None else None)
        self._seen += len(rows)

    def _thin(self) -> None:
        kept = torch.arange(0, len(self), 2)
        rows = self._rows.filled[kept]
        self._rows = GrowingMatrix(self.width, rows.dtype)
        self._rows.append(rows)
        if self._sources is not None:
            self._sources = [self.sources.select(kept)]
        self._stride *= 2

    def _append(self, rows: Tensor, sources: Sources | None) -> None:
        short = rows.bfloat16()
        if self._rows.filled.dtype == torch.bfloat16 and not torch.equal(short.float(), rows):
            wider = GrowingMatrix(self.width, torch.float32)
            wider.append(self._rows.filled.float())
            self._rows = wider
        self._rows.append(short if self._rows.filled.dtype == torch.bfloat16 else rows)
        if self._sources is not None and sources is not None:
            self._sources.append(sources)

    def state(self) -> State:
        """All that `restore` needs to go on."""
        state: State = {"rows": self._rows.filled.clone(), "place": torch.tensor([self._stride, self._seen])}
        return state | (named("sources", self.sources.to_tensors()) if self._sources is not None else {})

    def restore(self, state: State) -> None:
        """Go on from `state`."""
        self._rows = GrowingMatrix(self.width, state["rows"].dtype)
        self._rows.append(state["rows"])
        self._stride, self._seen = state["place"].tolist()
        if self._sources is not None:
            self._sources = [Sources.from_tensors(part(state, "sources"))]

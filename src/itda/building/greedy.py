"""Worst first: the row that the dictionary explains least becomes the next atom."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from itda.building.blocks import BlockBuilder
from itda.building.options import GreedyOptions
from itda.pursuit import Block

# Unexplained shares this close are a tie, which goes to the row that came first: the last bits of an
# activation differ between machines, and a choice should not.
_TIE = 1e-5
# Less than this is rounding: such a row is a repeat of an atom or a sum of atoms.
_EXPLAINED = 1e-6
_NEVER_AGAIN = np.iinfo(np.int64).max  # a row becomes an atom once, whatever rounding says of it later
_REFRESHED = 16  # rows encoded again together; one call costs the same for one row and for these


class GreedyBuilder(BlockBuilder):
    """Adds the worst explained row of a block, encodes again, and so on, until the threshold or the quota is met.

    A number of atoms without a threshold is spread evenly over the rows: each block may add so many that
    their number grows in step with the rows, and the threshold follows.
    """

    method: ClassVar[str] = "greedy"
    options: GreedyOptions

    def choose(self, block: Block, start: int, end: int) -> list[tuple[int, float]]:
        """See `Builder.choose`."""
        limit = self._limit()
        if len(self.prepared) >= limit:
            return []
        threshold = max(_EXPLAINED, self.options.max_unexplained or 0.0)
        unexplained = self._unexplained(block, np.arange(start, end))
        encoded_with = np.full(end - start, len(self.prepared))
        chosen: list[tuple[int, float]] = []
        while len(self.prepared) < limit:
            worst = int(np.argmax(unexplained >= unexplained.max() - _TIE))
            novelty = float(unexplained[worst])
            if novelty <= threshold:
                break
            if encoded_with[worst] == len(self.prepared):
                self.add(block.rows[start + worst : start + worst + 1])
                chosen.append((start + worst, novelty))
                unexplained[worst], encoded_with[worst] = 0.0, _NEVER_AGAIN
                continue
            # More atoms hardly ever leave more unexplained, so an old share is a bound: only rows at the
            # top need to be encoded again before the worst of all is known.
            stale = np.argsort(-unexplained, kind="stable")[:_REFRESHED]
            stale = np.union1d(stale[encoded_with[stale] < len(self.prepared)], worst)
            unexplained[stale] = self._unexplained(block, start + stale)
            encoded_with[stale] = len(self.prepared)
        return chosen

    @property
    def _why_fewer(self) -> str | None:
        return super()._why_fewer if self.options.max_unexplained is None else None

    def _limit(self) -> float:
        """Atoms there may be after this block."""
        if self.options.atoms is None:
            return float("inf")
        rows = self.rows_in_all or self.options.expected_rows
        if self.options.max_unexplained is not None or rows is None:
            return self.options.atoms
        return min(self.options.atoms, round(self.options.atoms * self.rows_seen / rows))

    def _unexplained(self, block: Block, which: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = torch.from_numpy(which)
        if not len(self.prepared):
            return (block.rows[rows] != 0).any(1).float().numpy()
        return block.pursue(self.coding, rows, self.backend).unexplained.numpy()

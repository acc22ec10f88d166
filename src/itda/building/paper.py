"""The rule of the paper, as its text and its public code have it.

Source: Leask, Nanda & Al Moubayed 2025, Algorithm 1 and public code. Where they are silent: equally
frequent rows go by arrival, and a row of zeros, which has no direction, is passed over.
"""

from collections import Counter
from typing import ClassVar

import torch
from torch import Tensor

from itda.building.blocks import BlockBuilder
from itda.building.options import PaperOptions
from itda.pursuit import Block, Coding, pursue


class PaperBuilder(BlockBuilder):
    """Encodes a block with the atoms as they stand, then adds every row whose cosine gap is above the threshold.

    The first D atoms are the distinct rows that come, most frequent first.
    """

    method: ClassVar[str] = "paper"
    options: PaperOptions

    def choose(self, block: Block, start: int, end: int) -> list[tuple[int, float]]:
        """See `Builder.choose`."""
        rows = block.rows[start:end]
        limit = self.options.atoms if self.options.atoms is not None else float("inf")
        chosen: list[tuple[int, float]] = []
        if len(self.prepared) < min(rows.shape[1], limit):
            free = int(min(rows.shape[1], limit)) - len(self.prepared)
            chosen = [(start + index, 1.0) for index in _distinct(rows)[:free]]
            if chosen:
                self.add(block.rows[[index for index, _ in chosen]])
        if len(self.prepared) >= limit or not len(self.prepared):
            return chosen
        threshold = self.options.max_cosine_gap
        assert threshold is not None
        gap = self._cosine_gap(rows)
        added = torch.nonzero(gap > threshold)[:, 0]
        if limit < float("inf"):
            added = added[: int(limit) - len(self.prepared)]
        if len(added):
            self.add(rows[added])
        return chosen + [(start + index, float(gap[index])) for index in added.tolist()]

    @property
    def _why_fewer(self) -> None:
        return None

    def _cosine_gap(self, rows: Tensor) -> Tensor:
        """1 - cos(x, x^) of each row (n,); 0 for a row of zeros."""
        codes = pursue(rows, self.prepared, Coding(steps=self.coding.steps), backend=self.backend)
        return torch.where((rows != 0).any(1), 1 - codes.cosine, 0.0)


def _distinct(rows: Tensor) -> list[int]:
    """First places of the distinct rows that are not zero, most frequent first, ties by arrival."""
    contents = [row.tobytes() for row in rows.numpy()]
    frequency = Counter(contents)
    first = {content: index for index, content in reversed(list(enumerate(contents)))}
    order = sorted(first.values(), key=lambda index: (-frequency[contents[index]], index))
    return [index for index in order if bool((rows[index] != 0).any())]

"""Where dictionary learning begins."""

import torch
from torch import Tensor

from itda.building.greedy import GreedyBuilder
from itda.building.options import GreedyOptions
from itda.building.pools import Encoder, Pool
from itda.data.sources import Sources

_TOGETHER = 4096  # rows that are given together


def novel(pool: Pool, count: int, encode: Encoder) -> Tensor:
    """Rows of a pool, by index, as a greedy build takes them; filled up in order if that finds too few.

    Spread over what the rows hold, they lead to better atoms than random ones: after three passes of learning, random
    ones had left 10 to 25 % more unexplained, and still 7 to 20 % after ten. The centres of k-means lay between.
    """
    options = GreedyOptions(atoms=count, expected_rows=len(pool.rows), center=False)
    builder = GreedyBuilder(pool.rows.shape[1], encode.coding, options, backend=encode.backend, memory=encode.memory)
    for first in range(0, len(pool.rows), _TOGETHER):  # all at once they would be there twice
        rows = pool.rows[first : first + _TOGETHER]
        builder.update(rows, Sources.of_rows(len(rows), first=first))
    return filled(builder.taken(), count, len(pool.rows))


def filled(chosen: Tensor, count: int, rows: int) -> Tensor:
    """So many of so many rows, by index, in order: those chosen, and as many of the others, evenly, as are missing."""
    free = torch.ones(rows, dtype=torch.bool)
    free[chosen] = False
    others, missing = torch.nonzero(free)[:, 0], count - len(chosen)
    evenly = torch.linspace(0, max(0, len(others) - 1), missing).round().long()
    return torch.cat([chosen, others[evenly]]).sort().values

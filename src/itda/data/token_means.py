"""The mean activation of each token id: the baseline that knows nothing but which token it was."""

from dataclasses import dataclass

import torch
from torch import Tensor

_AT_ONCE = 1024  # tokens


@dataclass(frozen=True, eq=False)
class TokenMeans:
    """Mean activation per token id over the rows a dictionary was built from."""

    token_ids: Tensor
    """int64 (V,), sorted."""
    counts: Tensor
    """int64 (V,), rows behind each mean."""
    offsets: Tensor
    """bfloat16 (V, D): each mean less the overall one; half the space, and far more than the baseline needs."""
    overall: Tensor
    """float32 (D,): the mean of all rows, for tokens that were never seen."""

    def __repr__(self) -> str:
        seen, width = self.offsets.shape
        return f"TokenMeans({seen:,} tokens of width {width}, over {int(self.counts.sum()):,} rows)"

    def of(self, token_ids: Tensor) -> Tensor:
        """The mean of each token, float32 (N, D); the overall mean for unseen ones."""
        place = torch.searchsorted(self.token_ids, token_ids).clamp_max(len(self.token_ids) - 1)
        known = self.token_ids[place] == token_ids
        return self.overall + torch.where(known[:, None], self.offsets[place].float(), 0.0)

    def to_tensors(self) -> dict[str, Tensor]:
        """For safetensors files."""
        return dict(vars(self))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "TokenMeans":
        """The inverse of `to_tensors`."""
        return cls(**tensors)


class TokenMeansAccumulator:
    """Sums per token id, over rows that come in blocks."""

    def __init__(self, width: int) -> None:
        self._place: dict[int, int] = {}
        self._sums = torch.zeros((0, width), dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)

    def update(self, rows: Tensor, token_ids: Tensor) -> None:
        """Add rows (n, D) with their token ids (n,)."""
        unique, inverse = torch.unique(token_ids, return_inverse=True)
        where = self._places(unique)[inverse]
        self._sums.index_add_(0, where, rows.double())
        self._counts.index_add_(0, where, torch.ones_like(where))

    def add(self, means: TokenMeans) -> None:
        """Add the rows behind other means."""
        where = self._places(means.token_ids)
        sums = (means.overall.double() + means.offsets.double()) * means.counts[:, None]
        self._sums.index_add_(0, where, sums)
        self._counts.index_add_(0, where, means.counts)

    def _places(self, token_ids: Tensor) -> Tensor:
        """Where the sums of some different tokens are, after making room for those that are new."""
        before = len(self._place)
        places = torch.tensor([self._place.setdefault(token, len(self._place)) for token in token_ids.tolist()])
        size = len(self._place)
        if size > len(self._sums):
            capacity = max(size, 2 * len(self._sums))
            self._sums, self._counts = _grown(self._sums, before, capacity), _grown(self._counts, before, capacity)
        self._sums[before:size], self._counts[before:size] = 0, 0
        return places

    def finish(self) -> TokenMeans | None:
        """The means, or None if there were no rows."""
        size = len(self._place)
        if not size:
            return None
        ids = torch.tensor(list(self._place))
        order = torch.argsort(ids)  # the order of first appearance depends on how the rows were cut
        counts = self._counts[order]
        total = self._sums.new_zeros(self._sums.shape[1])
        for places in torch.split(order, _AT_ONCE):
            total += self._sums[places].sum(0)
        overall = (total / counts.sum()).float()
        # A part at a time: of a large vocabulary, sums are the most that a build keeps in memory
        offsets = torch.empty((size, self._sums.shape[1]), dtype=torch.bfloat16)
        for first in range(0, size, _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            offsets[part] = (self._sums[order[part]] / counts[part, None] - overall).bfloat16()
        return TokenMeans(ids[order], counts, offsets, overall)

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs, until the next update: no copy is made of the sums."""
        size = len(self._place)
        return {
            "token_ids": torch.tensor(list(self._place), dtype=torch.int64),
            "sums": self._sums[:size],
            "counts": self._counts[:size],
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self._place = {token: place for place, token in enumerate(state["token_ids"].tolist())}
        self._sums, self._counts = state["sums"].clone(), state["counts"].clone()


def _grown(values: Tensor, used: int, size: int) -> Tensor:
    """With room behind, which takes no memory until it is written to."""
    grown = values.new_empty((size, *values.shape[1:]))
    grown[:used] = values[:used]
    return grown

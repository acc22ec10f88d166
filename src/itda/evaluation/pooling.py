"""Texts as single feature vectors: means over their tokens of the activations, the codes, or anything made of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.capturing import decomposed, in_groups, window_length
from itda.errors import OptionError
from itda.models import tokenizing
from itda.models.loading import Model
from itda.pursuit import Codes
from itda.shapes import finite

Features = Callable[[Tensor], Tensor | Codes]
"""Activations (n, D) -> features (n, F), or codes."""
Matrix = Any
"""Texts by features: a numpy array, or a sparse one of scipy."""


class Pooled:
    """Sums over the tokens of each text, for one kind of features."""

    def __init__(self, texts: int, size: int) -> None:
        self._sums: Matrix = None
        self._texts, self._size = texts, size
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, owners: Tensor, found: Tensor | Codes) -> None:
        """Add the features of some tokens, whose texts are `owners` (n,)."""
        if isinstance(found, Codes):
            used = found.atoms >= 0
            rows = owners[:, None].expand_as(found.atoms)[used]
            self.entries(rows, found.atoms[used], found.coefficients[used])
            return
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(owners):
            shape = tuple(getattr(found, "shape", ()))
            raise OptionError(
                f"Features must be a tensor with a row of features for each activation. Got {type(found).__name__} of "
                f"shape {shape} for {len(owners)} activations."
            )
        found = finite(found.detach().float().cpu(), "Features")
        if not found.shape[1]:
            raise OptionError("Features must have a column at least. Got none.")
        if self._sums is None:
            self._sums = np.zeros((self._texts, found.shape[1]), np.float32)
        np.add.at(self._sums, owners.numpy(), found.numpy())

    def entries(self, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """Add single values."""
        self._parts.append((rows.numpy(), columns.numpy(), values.numpy()))

    def means(self, counts: np.ndarray) -> Matrix:
        """Texts by features, each the mean over the text's tokens."""
        per_token = 1 / np.maximum(counts, 1)
        if self._sums is not None:
            return self._sums * per_token[:, None].astype(np.float32)
        shape = (self._texts, self._size)
        if not self._parts:
            return scipy.sparse.csr_matrix(shape, dtype=np.float32)
        rows, columns, values = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        summed = scipy.sparse.csr_matrix((values.astype(np.float32), (rows, columns)), shape=shape)
        return scipy.sparse.diags_array(per_token.astype(np.float32)) @ summed


def pool(
    model: Model,
    site: str,
    texts: Sequence[str],
    features: Mapping[str, tuple[Features, int]],
    *,
    capture: Mapping[str, Any],
    progress: bool,
) -> tuple[dict[str, Matrix], Matrix, np.ndarray]:
    """Mean features of each text over the tokens that a capture keeps.

    Args:
        features: name -> how they are made of activations, and how many there are.
        capture: options of the capture that the features were made for.
    Returns: name -> texts by features; how often each token id is in each text, as a share; tokens of each text.
    """
    length = window_length(model, capture)
    place = model.site(site)
    cut = tokenizing.windows(model, texts, length=length, bos=capture.get("bos"))
    windows = [(owner, window) for owner, parts in enumerate(cut) for window in parts]
    pools = {name: Pooled(len(texts), size) for name, (_, size) in features.items()}
    tokens = Pooled(len(texts), model.vocabulary)
    counts = np.zeros(len(texts), np.int64)
    with progress_bars.bar("read texts", len(windows), show=progress) as advance:
        for group in in_groups(sorted(windows, key=lambda pair: len(pair[1])), tokenizing.CANONICAL_BATCH):
            inputs = tokenizing.batch(model, [window for _, window in group], length=None)
            real = inputs["attention_mask"].bool()
            rows = finite(model.read(inputs, [place])[site][real].float().cpu(), f"The activations at {site!r}")
            parts = torch.split(rows, real.sum(1).tolist())
            keep = torch.cat([decomposed(w, part, capture) for (_, w), part in zip(group, parts, strict=True)])
            owners = torch.repeat_interleave(torch.tensor([owner for owner, _ in group]), real.sum(1).cpu())[keep]
            ids = inputs["input_ids"][real].cpu()[keep]
            tokens.entries(owners, ids, torch.ones(len(ids)))
            np.add.at(counts, owners.numpy(), 1)
            for name, (make, _) in features.items():
                pools[name].add(owners, make(rows[keep]))
            advance(len(group))
    return {name: own.means(counts) for name, own in pools.items()}, tokens.means(counts), counts

"""What pursuits need of atoms that are the weights of a module, which may move and change their data type."""

import torch
from torch import Tensor

from itda.pursuit import Prepared, prepare


class PreparedWeights:
    """The inner products of atoms, computed once for as long as the weights are where and what they are."""

    def __init__(self) -> None:
        self._of: tuple[int, torch.dtype, int] | None = None
        self._prepared: Prepared | None = None

    def of(self, weights: Tensor) -> Prepared:
        """What `prepare` makes of these weights (A, D), in float32 at norm 1."""
        # Tensors of inference mode do not count changes, and can hardly be changed
        key = (weights.data_ptr(), weights.dtype, 0 if weights.is_inference() else weights._version)
        if self._prepared is None or self._of != key:
            weights = weights.detach()
            # Atoms have norm 1 already, unless they were rounded
            exact = weights.dtype == torch.float32
            self._prepared = prepare(weights if exact else torch.nn.functional.normalize(weights.float(), dim=1))
            self._of = key
        return self._prepared

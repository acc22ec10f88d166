"""First correlations of rows with atoms from bfloat16 products, with a bound on what the rounding can do.

A processor with matrix units for bfloat16 multiplies six times as fast in it, at 8 bits of precision. Rows
and atoms are split into their part in a shared subspace, kept at 16 bits as the sum of two bfloat16
numbers, and the rest at 8 bits. Activations share most of their energy, so the error, which is that of
the rest, is small, and Cauchy-Schwarz bounds it: the pursuit looks at every atom again that could be
the best within that bound.
"""

import torch
from torch import Tensor

from itda.pursuit.buffers import GrowingMatrix

_MOST_DIRECTIONS = 96
BFLOAT16 = 2.0**-8  # what a number loses at most by being rounded to 8 bits, relative
HIGH_PARTS = 3 * BFLOAT16**2  # error of a product of two numbers of 16 bits, the smallest of its four parts left out
_FLOAT32 = 1e-3  # square root of what a difference of squares of unit rows loses
_SAMPLE = 4096  # atoms from which the shared subspace is found


class HalfProducts:
    """Atoms in the form in which they are multiplied; it grows with them."""

    def __init__(self, atoms: Tensor) -> None:
        """Find the subspace that these atoms (A, D) share; any further ones may be appended."""
        width = atoms.shape[1]
        directions = min(_MOST_DIRECTIONS, width // 6)
        sample = atoms[:: max(1, len(atoms) // _SAMPLE)]
        state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(0)  # svd_lowrank takes no generator
        shared = torch.svd_lowrank(sample, q=directions, niter=2)[2]
        torch.default_generator.set_state(state)
        self._shared = torch.linalg.qr(shared)[0]  # (D, R), orthonormal
        self._atoms = GrowingMatrix(width + 3 * directions, torch.bfloat16)
        self._spread = GrowingMatrix(1, torch.float32)
        self._rounding = 0.0
        self.append(atoms)

    def append(self, atoms: Tensor) -> None:
        """Take in further unit atoms (m, D)."""
        for part in torch.split(atoms, _SAMPLE):
            self._append(part)

    def _append(self, atoms: Tensor) -> None:
        inside, rest = self._split(atoms)
        high, low = _two_parts(inside)
        rounded = rest.bfloat16()
        spread = rest.norm(dim=1)
        error = (rest - rounded.float()).norm(dim=1)
        self._rounding = max(self._rounding, float((error / spread.clamp_min(1e-30)).max()))
        self._atoms.append(torch.cat([rounded, high, low, high], dim=1))
        self._spread.append(spread[:, None])

    @property
    def spread(self) -> Tensor:
        """Norm of each atom outside the shared subspace, float32 (A,)."""
        return self._spread.filled[:, 0]

    def correlations(self, rows: Tensor, out: Tensor) -> Tensor:
        """Multiply unit rows (n, D) with all atoms into `out`, bfloat16 (n, A).

        Returns: slack (n,). The error of row i with atom a is at most slack[i] * spread[a], plus what the
        result loses by being rounded to bfloat16, plus HIGH_PARTS.
        """
        inside, rest = self._split(rows)
        high, low = _two_parts(inside)
        rounded = rest.bfloat16()
        torch.mm(torch.cat([rounded, high, high, low], dim=1), self._atoms.filled.T, out=out)
        error: Tensor = torch.linalg.vector_norm(rest.sub_(rounded), dim=1)
        spread = (1 - inside.square().sum(1)).clamp_min(0).sqrt() + _FLOAT32
        return error + self._rounding * (1 + BFLOAT16) * spread

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        inside = rows @ self._shared
        return inside, torch.addmm(rows, inside, self._shared.T, alpha=-1)


def _two_parts(values: Tensor) -> tuple[Tensor, Tensor]:
    high = values.bfloat16()
    return high, (values - high.float()).bfloat16()

"""A block of rows: made unit, multiplied with all atoms once, and handed to a backend."""

from functools import cached_property

import torch
from torch import Tensor

from itda.pursuit import backends, torch_batched
from itda.pursuit.buffers import empty
from itda.pursuit.codes import BlockCodes, Codes, Coding
from itda.pursuit.precision import plain_float32
from itda.pursuit.prepared import Prepared
from itda.shapes import finite

_SAFE = 1e-15  # norms between this and its inverse have squares that float32 can hold
# First correlations (n, A) of one block. Larger ones were not faster on two cores; a GPU must not wait for the host
BLOCK_BYTES = {"cpu": 96 * 2**20, "cuda": 2 * 2**30}


def rows_at_once(prepared: Prepared, steps: int) -> int:
    """How many rows a block should have."""
    held = getattr(prepared.gram, "held", None)  # Gram rows that are kept: no step may ask for more
    size = BLOCK_BYTES.get(prepared.device.type, BLOCK_BYTES["cpu"])
    fitting = max(1, size // (4 * max(len(prepared), prepared.width, steps**2)))
    return min(fitting, held) if held else fitting


def pursue_rows(rows: Tensor, prepared: Prepared, coding: Coding, backend: str) -> Codes:
    """Codes of one block of centred rows (n, D) with a backend that can run."""
    unit, norms = unit_and_norms(rows)
    codes = _run(unit, None, coding.stop_shares(norms), prepared, coding, backend)
    return to_codes(codes, norms, backends.route(backend, prepared, coding))


def _run(
    unit: Tensor, first: Tensor | None, stops: Tensor | None, prepared: Prepared, coding: Coding, backend: str
) -> BlockCodes:
    """Codes of unit rows; `first` is None or their float32 correlations (n, A), which may be overwritten; `stops` the
    unexplained share at which each is done (n,), or None."""
    if backend == "reference":
        return _reference(unit, stops, prepared, coding)
    if backend == "numba":
        return (
            _numba(unit, stops, prepared, coding)
            if first is None
            else _numba_float32(unit, first, stops, prepared, coding)
        )
    if backend == "triton":
        from itda.pursuit import triton_gpu  # half a second to import, and not everywhere

        return triton_gpu.pursue_block(unit, first, stops, prepared, coding)
    return torch_batched.pursue_block(unit, first, stops, prepared, coding)


def _reference(unit: Tensor, stops: Tensor | None, prepared: Prepared, coding: Coding) -> BlockCodes:
    from itda.pursuit import reference

    shares = None if stops is None else stops.cpu().double().numpy()
    arrays = reference.pursue(unit.cpu().double().numpy(), prepared.atoms.cpu().double().numpy(), coding, shares)
    chosen, *others = (torch.from_numpy(array).to(unit.device) for array in arrays)
    return BlockCodes(chosen, *(other.float() for other in others))


def unit_and_norms(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of norm 1, or zero, and their norms (n,).

    Raises: ActivationError for NaN or infinity.
    """
    norms = torch.linalg.vector_norm(rows, dim=1)
    if not len(rows):
        return rows, norms
    least, most = (float(end) for end in torch.aminmax(norms))
    if least > _SAFE and most < 1 / _SAFE:
        return (rows / norms[:, None]).contiguous(), norms
    # Squares overflow above norms of 1e19 and vanish below 1e-19
    largest = torch.linalg.vector_norm(finite(rows, "rows"), ord=float("inf"), dim=1)
    scale = torch.where(largest > 0, largest, 1.0)
    rows = rows / scale[:, None]
    norms = torch.linalg.vector_norm(rows, dim=1)
    return (rows / torch.where(norms > 0, norms, 1.0)[:, None]).contiguous(), norms * scale


def to_codes(block: BlockCodes, norms: Tensor, route: str) -> Codes:
    """The codes of the rows themselves, from those of the unit rows."""
    return Codes(block.atoms, block.coefficients.mul_(norms[:, None]), block.unexplained, block.cosine, route)


def _numba(unit: Tensor, stops: Tensor | None, prepared: Prepared, coding: Coding) -> BlockCodes:
    from itda.pursuit import numba_cpu  # half a second to import

    halves = prepared.halves()
    if halves is None:
        return _numba_exact(unit, stops, prepared, coding)
    first = prepared.scratch.take(len(unit), len(prepared), torch.bfloat16)
    slack = halves.correlations(unit, first)
    codes, hard = numba_cpu.pursue_block(unit, first, slack, halves.spread, stops, prepared, coding)
    prepared.scratch.release(first)
    if bool(hard.any()):
        codes = _merged(codes, _numba_exact(unit[hard], _some(stops, hard), prepared, coding), hard)
    return codes


def _some(stops: Tensor | None, which: Tensor) -> Tensor | None:
    return None if stops is None else stops[which]


def _numba_exact(unit: Tensor, stops: Tensor | None, prepared: Prepared, coding: Coding) -> BlockCodes:
    first = prepared.scratch.take(len(unit), len(prepared), torch.float32)
    torch.mm(unit, prepared.atoms.T, out=first)
    codes = _numba_float32(unit, first, stops, prepared, coding)
    prepared.scratch.release(first)
    return codes


def _numba_float32(unit: Tensor, first: Tensor, stops: Tensor | None, prepared: Prepared, coding: Coding) -> BlockCodes:
    """Codes from float32 first correlations (n, A); rows that are too close to call go to the plain method."""
    from itda.pursuit import numba_cpu

    none = torch.zeros(max(1, len(unit)))
    codes, hard = numba_cpu.pursue_block(unit, first, none, none[:1], stops, prepared, coding)
    if bool(hard.any()):
        others = torch_batched.pursue_by_products(unit[hard], _some(stops, hard), prepared.atoms, coding)
        codes = _merged(codes, others, hard)
    return codes


def _merged(codes: BlockCodes, others: BlockCodes, where: Tensor) -> BlockCodes:
    for part, other in zip(codes, others, strict=True):
        part[where] = other
    return codes


class Block:
    """Rows that are encoded again and again while the dictionary grows.

    Their first correlations are computed once, and later only with the atoms that are new.
    """

    def __init__(self, rows: Tensor, prepared: Prepared) -> None:
        """Take centred rows (n, D)."""
        self.rows = rows
        self._prepared = prepared
        self._first = empty(len(rows), 0, device=rows.device)
        self._known = 0

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _scaled(self) -> tuple[Tensor, Tensor]:
        return unit_and_norms(self.rows)

    def pursue(self, coding: Coding, which: Tensor, backend: str = "auto") -> Codes:
        """Codes of the rows `which` (m,) with all atoms there are by now."""
        prepared = self._prepared
        chosen = backends.choose(backend, prepared, coding)
        with plain_float32(prepared.device):
            self._extend()
            unit, norms = (part[which] for part in self._scaled)
            first = self._first[which, : self._known].contiguous()
            codes = _run(unit, first, coding.stop_shares(norms), prepared, coding.for_a_row, chosen)
            return to_codes(codes, norms, backends.route(chosen, prepared, coding))

    def _extend(self) -> None:
        """Compute the correlations with the atoms that are new."""
        size = len(self._prepared)
        if size == self._known:
            return
        if size > self._first.shape[1]:
            larger = empty(len(self.rows), max(size + 32, int(1.25 * size)), device=self.rows.device)
            larger[:, : self._known] = self._first[:, : self._known]
            self._first = larger
        new = self._prepared.atoms[self._known :]
        self._first[:, self._known : size] = self._scaled[0] @ new.T
        self._known = size

"""How a code is made (`Coding`) and what it is (`Codes`)."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor

from itda.errors import OptionError, ShapeError
from itda.options import above_zero, in_python, one_of, share, whole

_NOT_ALL = 0.999  # a share below that of a row of which nothing is explained yet

Method = Literal["mp", "omp", "gp"]


def default_steps(width: int) -> int:
    """Pursuit steps where none are asked for: max(4, min(40, D / 16))."""
    return max(4, min(40, width // 16))


def default_coding(steps: int) -> "Coding":
    """How dictionaries are built and used where nobody says: least squares, nothing is taken away, and rows that need
    more atoms have more, up to twice as many.

    "Minus this text" cannot be read. With a dictionary that is built for it, adding only costs 8 to 15 % more that is
    unexplained; as many atoms in the mean, but not for every row, leave 10 to 20 % less (docs/fidelity.md).
    """
    return Coding(steps=steps, most=2 * steps if steps > 1 else None, method="omp", nonnegative=True)


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a code is made: saved with a dictionary and used by `encode` unless another is given."""

    steps: int
    """Pursuit steps K, the most atoms a code can use unless `most` says otherwise; at least 1."""
    most: int | None = None
    """Where some rows may have more: the most atoms a code can use, while `steps` is how many codes have in the mean.
    A build finds the `stop_below` at which that is so, whatever is given; without one every code has `steps`."""
    method: Method = "mp"
    """`mp`, matching pursuit (an atom may be chosen again); `omp`, orthogonal matching pursuit; or `gp`,
    gradient pursuit: a step of steepest descent over the chosen atoms after each choice."""
    refit: bool = False
    """Replace the coefficients by the least-squares ones on the chosen atoms. `omp` has them already."""
    nonnegative: bool = False
    """Only add atoms, never subtract them: every coefficient is above zero."""
    stop_at: float | None = None
    """Stop as soon as the unexplained share is this or less (between 0 and 1), so that easy rows take fewer
    atoms; None takes all steps."""
    stop_below: float | None = None
    """Stop as soon as what is missed of a row, x - x^, is no longer than this, in the units of the activations, so
    that long rows take more atoms too. A row that is not the mean has one at least."""

    def __post_init__(self) -> None:
        in_python(self)
        whole("steps", self.steps)
        if self.most is not None:
            whole("most", self.most)
            if self.most < self.steps:
                raise OptionError(f"most={self.most} is less than the steps={self.steps} there are to be in the mean.")
        one_of("method", self.method, get_args(Method))
        for name in ("refit", "nonnegative"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be True or False. Got {getattr(self, name)!r} instead.")
        if self.stop_at is not None:
            share("stop_at", self.stop_at)
            if self.most is not None:
                raise OptionError(
                    "most= and stop_at= contradict each other: codes would not have `steps` atoms in the mean. Leave "
                    "out most; steps are then the most atoms a code has."
                )
        if self.stop_below is not None:
            above_zero("stop_below", self.stop_below)

    def __str__(self) -> str:
        named = {"mp": "matching pursuit", "omp": "orthogonal matching pursuit", "gp": "gradient pursuit"}
        parts = [f"{self.steps} steps in the mean, at most {self.places}," if self.varies else f"{self.steps} steps"]
        parts[0] += f" of {named[self.method]}"
        parts += ["refit"] if self.refit else []
        parts += ["nothing subtracted"] if self.nonnegative else []
        parts += [f"until {self.stop_at:g} is unexplained"] if self.stop_at is not None else []
        parts += [f"until what is missed is no longer than {self.stop_below:g}"] if self.stop_below is not None else []
        return ", ".join(parts)

    @property
    def varies(self) -> bool:
        """Whether `steps` is how many atoms codes have in the mean, not how many each has."""
        return self.most is not None and self.stops

    @property
    def stops(self) -> bool:
        """Whether there is a threshold at which a row takes no more atoms."""
        return self.stop_at is not None or self.stop_below is not None

    @property
    def places(self) -> int:
        """The most atoms a code can use: K of `Codes`."""
        return self.most if self.most is not None and self.stops else self.steps

    @property
    def for_a_row(self) -> Self:
        """The same for one row, whatever others have: `steps` are the most there can be."""
        return replace(self, steps=self.places, most=None)

    @property
    def asked(self) -> Self:
        """As it was asked for: without the threshold that a build found."""
        return replace(self, stop_below=None) if self.most is not None else self

    def with_options(self, **changes: Any) -> Self:
        """The same coding with some fields changed; `None` leaves a field as it is.

        Other `steps` are exactly so many for every row: a threshold was found for the number there was.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        if "steps" in changes and self.most is not None:
            changes = {"most": None, "stop_below": None} | changes
        return replace(self, **changes)

    def stop_shares(self, norms: Tensor) -> Tensor | None:
        """The unexplained share (N,) at which each row of these norms (N,) is done; None where all steps are taken."""
        if not self.stops:
            return None
        shares = torch.full_like(norms, self.stop_at or 0.0)
        if self.stop_below is not None:
            own = (self.stop_below / norms.clamp_min(torch.finfo(norms.dtype).tiny)).square()
            shares = torch.maximum(shares, own.clamp_max(_NOT_ALL))
        return shares

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for files and reports."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**fields)


class BlockCodes(NamedTuple):
    """What a backend returns for a block of n unit rows; the fields are those of Codes."""

    atoms: Tensor
    coefficients: Tensor
    unexplained: Tensor
    cosine: Tensor


@dataclass(frozen=True, eq=False)
class Codes:
    """Sparse codes of N activations, at most K atoms each.

    A code lists each atom once, in the order of first choice, with its summed coefficient. Unused
    places come last and hold atom -1 and coefficient 0.
    """

    atoms: Tensor
    """int32 (N, K): atom index or -1."""
    coefficients: Tensor
    """float32 (N, K), in the units of the centred activations."""
    unexplained: Tensor
    """float32 (N,): ||x - x^||^2 / ||x - m||^2, m the mean that was taken off; 0 for a row equal to m."""
    cosine: Tensor = field(default_factory=lambda: torch.empty(0))
    """float32 (N,): cosine of x - m with x^ - m, 0 where either is zero; NaN in codes that no pursuit made."""
    route: str = ""
    """How they were computed, as in `numba, int16 Gram matrix`."""

    def __post_init__(self) -> None:
        if not len(self.cosine) and len(self.unexplained):
            object.__setattr__(self, "cosine", torch.full_like(self.unexplained, float("nan")))
        if self.atoms.shape != self.coefficients.shape or self.atoms.ndim != 2:
            raise ShapeError(
                "Codes need atoms and coefficients of one shape (N, K). Got "
                f"{tuple(self.atoms.shape)} and {tuple(self.coefficients.shape)} instead."
            )
        for name in ("unexplained", "cosine"):
            shape = tuple(getattr(self, name).shape)
            if shape != (len(self.atoms),):
                raise ShapeError(
                    f"Codes of {len(self.atoms)} rows need {name} of shape ({len(self.atoms)},). Got {shape} instead."
                )

    def __len__(self) -> int:
        return len(self.atoms)

    def __repr__(self) -> str:
        if not len(self):
            return "Codes(of no rows)"
        mean, missed = float(self.l0.double().mean()), float(self.unexplained.double().mean())
        return f"Codes({len(self):,} rows, {mean:.3g} atoms each in the mean, {missed:.1%} unexplained)"

    def __getitem__(self, rows: slice | Tensor) -> "Codes":
        return Codes(self.atoms[rows], self.coefficients[rows], self.unexplained[rows], self.cosine[rows], self.route)

    def put(self, rows: slice, codes: "Codes") -> None:
        """Write the codes of some rows in place of those that are here."""
        for name in ("atoms", "coefficients", "unexplained", "cosine"):
            getattr(self, name)[rows] = getattr(codes, name)

    @property
    def l0(self) -> Tensor:
        """Distinct atoms in each code, int64 (N,)."""
        return (self.atoms >= 0).sum(1)

    def usage(self, size: int) -> Tensor:
        """How many codes use each of `size` atoms, int64 (A,)."""
        return torch.bincount(self.atoms[self.atoms >= 0].long(), minlength=size)

    def energy(self, size: int) -> Tensor:
        """Summed squared coefficients of each of `size` atoms, float32 (A,)."""
        used = self.atoms >= 0
        nothing = torch.zeros(size, device=self.atoms.device)
        return nothing.index_add_(0, self.atoms[used].long(), self.coefficients[used].square())

    def to_dense(self, size: int) -> Tensor:
        """The codes as a float32 matrix (N, A); for small cases only."""
        dense = torch.zeros(len(self), size + 1, dtype=self.coefficients.dtype, device=self.atoms.device)
        place = torch.where(self.atoms >= 0, self.atoms, size).long()
        return dense.scatter_add_(1, place, self.coefficients)[:, :size]

    @classmethod
    def concatenate(cls, parts: Iterable["Codes"]) -> "Codes":
        """The codes of all parts, one after the other; all must have the same K."""
        parts = list(parts)
        if not parts:
            raise ShapeError("Nothing to concatenate: there must be at least one part.")
        return cls(
            torch.cat([part.atoms for part in parts]),
            torch.cat([part.coefficients for part in parts]),
            torch.cat([part.unexplained for part in parts]),
            torch.cat([part.cosine for part in parts]),
            parts[0].route,
        )

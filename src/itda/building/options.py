"""Options of each way to build a dictionary."""

from dataclasses import dataclass
from typing import ClassVar

from itda.errors import OptionError
from itda.options import flag, in_python, seed_number, share, whole


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What every builder needs to know."""

    atoms: int | None = None
    """How many atoms; None lets the threshold decide."""
    center: bool = True
    """Take the mean off before a pursuit and put it back after."""

    def __post_init__(self) -> None:
        in_python(self)
        if self.atoms is not None:
            whole("atoms", self.atoms)
        flag("center", self.center)


@dataclass(frozen=True, kw_only=True)
class BlockOptions(BuildOptions):
    """For builders that look at rows in blocks, once."""

    block: int = 8
    """Rows that are looked at together. The worst of many are outliers: the worst of 8 are the better atoms."""
    mean_rows: int = 16384
    """The mean is that of the first so many rows; they are held back until then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("block", self.block)
        whole("mean_rows", self.mean_rows)


@dataclass(frozen=True, kw_only=True)
class GreedyOptions(BlockOptions):
    """Worst first within each block of rows."""

    max_unexplained: float | None = None
    """Add every row of which more than this share is unexplained; with `atoms`, until there are so many."""
    expected_rows: int | None = None
    """Rows there will be: a number of atoms without a threshold is spread evenly over them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_unexplained is not None:
            share("max_unexplained", self.max_unexplained)
        elif self.atoms is None:
            raise OptionError("A build needs a size or a threshold: atoms= or max_unexplained=.")
        elif self.expected_rows is None:
            raise OptionError("A greedy build of a fixed size must know how many rows will come: expected_rows=.")


@dataclass(frozen=True, kw_only=True)
class PaperOptions(BlockOptions):
    """The rule of the paper and its public code."""

    block: int = 8192
    """Rows that are encoded together before any of them is added; the public code has 64 sequences of 128."""
    center: bool = False
    max_cosine_gap: float | None = None
    """Add every row with 1 - cos(x, x^) above this. The public code's threshold is 2 / D times it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_cosine_gap is None:
            raise OptionError(
                "method='paper' needs max_cosine_gap=. The public code's threshold 4e-4 is 0.154 at width 768; "
                "lower values add more atoms."
            )
        share("max_cosine_gap", self.max_cosine_gap)


@dataclass(frozen=True, kw_only=True)
class PoolOptions(BuildOptions):
    """For builders that keep rows evenly over all that come, and go through them several times at the end."""

    pool: int | None = None
    """Rows kept; by default 32 for each atom, at least 131,072."""
    seed: int = 0
    """Of every random choice among them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.atoms is None:
            raise OptionError("This method needs the number of atoms: atoms=. A threshold is for method='greedy'.")
        seed_number(self.seed)
        if self.pool is not None:
            whole("pool", self.pool)
            if self.pool < self.atoms:
                raise OptionError(f"pool={self.pool:,} rows cannot give {self.atoms:,} atoms. Give a larger pool.")

    @property
    def rows_kept(self) -> int:
        """The most rows that are kept."""
        assert self.atoms is not None
        return self.pool or max(self._LEAST_POOL, self._POOL_AN_ATOM * self.atoms)

    _POOL_AN_ATOM: ClassVar[int] = 32
    _LEAST_POOL: ClassVar[int] = 131_072


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(PoolOptions):
    """Real activations that serve best together: learned atoms replaced by real ones, then exchanged."""

    passes: int = 3
    """Over the pool while the atoms are free to move."""
    rounds: int = 3
    """Of exchange: a seventh more atoms come in, the ones that carry the least go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("passes", self.passes)
        whole("rounds", self.rounds, least=0)


@dataclass(frozen=True, kw_only=True)
class MixtureOptions(PoolOptions):
    """Convex mixtures of a few named activations."""

    parts: int = 5
    """Activations in a mixture, at most."""
    passes: int = 6
    """Over the pool: half of them while the atoms are free to move, then as mixtures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("passes", self.passes)
        whole("parts", self.parts)
        if self.parts > 5:
            raise OptionError(f"parts must be 1 to 5: a mixture of more cannot be read. Got {self.parts!r} instead.")


@dataclass(frozen=True, kw_only=True)
class LearnedOptions(PoolOptions):
    """Directions without bound, which no text names: a baseline."""

    passes: int = 10
    """Over the pool."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("passes", self.passes)


@dataclass(frozen=True, kw_only=True)
class SnmfOptions(PoolOptions):
    """Semi-nonnegative matrix factorisation, for MLP neurons."""

    center: bool = False
    passes: int = 50
    """Multiplicative updates."""
    kept: float = 0.01
    """Share of the neurons that a feature keeps."""

    # Activations of every row in every feature are held at once
    _POOL_AN_ATOM: ClassVar[int] = 4
    _LEAST_POOL: ClassVar[int] = 16_384

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("passes", self.passes)
        share("kept", self.kept)

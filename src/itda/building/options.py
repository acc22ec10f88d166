"""Options of each way to build a dictionary."""

from dataclasses import dataclass

from itda.errors import OptionError
from itda.options import share, whole


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What every builder needs to know."""

    atoms: int | None = None
    """How many atoms; None lets the threshold decide."""
    block: int = 8
    """Rows that are looked at together. The worst of many are outliers: the worst of 8 are the better atoms."""
    center: bool = True
    """Take the mean off before a pursuit and put it back after."""
    mean_rows: int = 16384
    """The mean is that of the first so many rows; they are held back until then."""

    def __post_init__(self) -> None:
        if self.atoms is not None:
            whole("atoms", self.atoms)
        whole("block", self.block)
        whole("mean_rows", self.mean_rows)


@dataclass(frozen=True, kw_only=True)
class GreedyOptions(BuildOptions):
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
class PaperOptions(BuildOptions):
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

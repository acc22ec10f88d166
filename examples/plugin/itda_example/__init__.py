"""One of everything that another package can add to itda: a build method, a measure, an operator and a page."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from markupsafe import Markup, escape

from itda.building.builder import Atoms
from itda.building.options import PoolOptions
from itda.building.pools import Pool, PoolBuilder, activations_of
from itda.compare.sampled_measures import Sample
from itda.compare.similarities import Measure
from itda.steer.operators import Operator
from itda.view.records import Records
from itda.view.views import View


@dataclass(frozen=True, kw_only=True)
class LongestOptions(PoolOptions):
    """Options of the builder: its own beside those of every method that keeps a pool of rows."""

    skip: int = 0
    """So many of the longest rows are left out."""


class LongestBuilder(PoolBuilder):
    """The longest activations. A builder says which rows of its pool become atoms; checkpoints come with that."""

    method: ClassVar[str] = "longest"
    options: LongestOptions

    def _atoms(self, pool: Pool, generator: torch.Generator) -> Atoms:
        order = torch.argsort(pool.norms, descending=True, stable=True)[self.options.skip :]
        return activations_of(pool, order[: self.wanted].sort().values)


LONGEST = (LongestBuilder, LongestOptions)


def mean_cosine(first: Sample, second: Sample) -> float:
    """1 less how far the cosines of pairs of rows differ in the mean, as the two representations have them.

    Unchanged by rotations and by scale.
    """
    cosines = [one.directions @ one.directions.T for one in (first, second)]
    return 1 - float((cosines[0] - cosines[1]).abs().mean())


MEAN_COSINE = Measure("mean_cosine", "sample", True, mean_cosine)


def limit(values: torch.Tensor, direction: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """No activation has more of the direction than `strength`."""
    along = torch.nn.functional.normalize(direction, dim=-1)
    excess = ((values @ along)[..., None] - strength).clamp_min(0)
    return values - excess * along


LIMIT = Operator(limit, True, "the median norm of activations at the site: the most there may be of the direction")


def tokens(records: Records) -> Markup:
    """How many atoms come from each token. What is shown is text of others, so it is escaped."""
    counts = Counter(records.token_of(atom) for atom in range(len(records)))
    rows = Markup().join(
        Markup("<tr><td>{}</td><td>{}</td></tr>").format(escape(token), count)
        for token, count in counts.most_common(50)
    )
    return Markup("<table><thead><tr><th>token</th><th>atoms</th></tr></thead><tbody>{}</tbody></table>").format(rows)


TOKENS = View("Atoms by token", tokens)

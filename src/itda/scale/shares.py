"""What every step on many workers does: read its options, share out tokens, hand out parts, keep results."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from itda import progress as progress_bars
from itda.capturing import CaptureOptions
from itda.capturing.sampling import spread
from itda.data.corpus import Corpus
from itda.errors import CorpusError, OptionError
from itda.options import whole
from itda.scale.cluster import Cluster, Work
from itda.scale.options import ScaleOptions
from itda.scale.results import Results
from itda.scale.tasks import ModelSource, Surveyed, SurveyPart


def split_options(options: Mapping[str, Any]) -> tuple[ScaleOptions, dict[str, Any]]:
    """How work is spread, among some options, and the others.

    Raises: OptionError.
    """
    own = set(ScaleOptions.__dataclass_fields__)
    how = ScaleOptions(**{name: value for name, value in options.items() if name in own})
    return how, {name: value for name, value in options.items() if name not in own}


def surveyed(
    cluster: Cluster,
    model: ModelSource,
    parts: tuple[Corpus, ...],
    sites: tuple[str, ...] | None,
    options: CaptureOptions,
    tokens: int | None,
) -> tuple[list[Surveyed], tuple[int | None, ...]]:
    """What there is in each part, and how many tokens each gives: evenly, as far as they have so many."""
    work = SurveyPart(model=model, parts=parts, sites=sites, capture=options)
    by_number = dict(cluster.map(work, range(len(parts))))
    found = [by_number[number] for number in range(len(parts))]
    if tokens is None:
        return found, (None,) * len(parts)
    whole("tokens", tokens, least=len(parts))
    there = sum(part.rows for part in found)
    if tokens > there:
        raise CorpusError(
            f"The corpus has {there:,} tokens to take. Got tokens={tokens:,}; ask for fewer, leave tokens out to take "
            "all, or add text."
        )
    shares = spread(tokens, {str(number): part.rows for number, part in enumerate(found)})
    return found, tuple(shares.values())


def mapped(cluster: Cluster, work: Work[Any], numbers: Sequence[int], what: str, progress: bool) -> dict[int, Any]:
    """Do work for some parts, with a bar; number -> what came of it."""
    found = {}
    with progress_bars.bar(f"{what}, parts", len(numbers), show=progress) as advance:
        for number, value in cluster.map(work, numbers):
            found[number] = value
            advance(1)
    return found


@contextmanager
def results_in(folder: str | Path | None, how: ScaleOptions, run: Mapping[str, Any]) -> Iterator[Results]:
    """Where parts leave their results: the folder that was given, or one that goes with the context.

    Raises: OptionError if other machines would need one; MismatchError if it has those of another run.
    """
    if folder is None:
        if how.address is not None:
            raise OptionError("Workers on other machines need a folder that all of them can write: give folder=.")
        with tempfile.TemporaryDirectory(prefix="itda-parts-") as temporary, Results(Path(temporary), run) as kept:
            yield kept
        return
    with Results(Path(folder), run) as kept:
        yield kept

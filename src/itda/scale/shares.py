"""What every step on many workers does: read its options, share out tokens, hand out parts, keep results."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from itda import progress as progress_bars
from itda.capturing import CaptureOptions
from itda.capturing.sampling import spread
from itda.data import files
from itda.data.corpus import Corpus
from itda.errors import CorpusError, FormatError, OptionError
from itda.scale.cluster import Cluster, Work
from itda.scale.options import ScaleOptions
from itda.scale.results import Results
from itda.scale.tasks import ModelSource, SurveyPart

_SURVEY = "survey"


def split_options(options: Mapping[str, Any]) -> tuple[ScaleOptions, dict[str, Any]]:
    """How work is spread, among some options, and the others.

    Raises: OptionError.
    """
    own = set(ScaleOptions.__dataclass_fields__)
    how = ScaleOptions(**{name: value for name, value in options.items() if name in own})
    return how, {name: value for name, value in options.items() if name not in own}


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the parts have, and what each gives."""

    sites: tuple[str, ...]
    width: int
    """Of the model's residual stream."""
    rows: int
    """That are taken of all parts together."""
    shares: tuple[int | None, ...]
    """Rows that each part gives; all it has for None."""
    capture: CaptureOptions
    """With one norm for all parts above which a row is a sink."""

    def save(self, folder: Path) -> None:
        """Write it to a folder.

        Raises: OutputError.
        """
        files.write_manifest(folder, _SURVEY, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The inverse of `save`.

        Raises: FormatError.
        """
        fields = files.read_manifest(folder, _SURVEY)
        with files.parsing(folder):
            own = {name: fields[name] for name in cls.__dataclass_fields__}
            lists = {name: tuple(own[name]) for name in ("sites", "shares")}
            return cls(**{**own, **lists, "capture": CaptureOptions(**own["capture"])})


def surveyed(
    cluster: Cluster,
    model: ModelSource,
    parts: tuple[Corpus, ...],
    sites: tuple[str, ...] | None,
    options: CaptureOptions,
    tokens: int | None,
    *,
    kept: Path,
) -> Survey:
    """Look at all parts, and share out the tokens: evenly, as far as parts have so many.

    It is done once and kept in a folder: its last digits are those of the machine that did it, and a run that goes on
    elsewhere must not be another one for that.

    Raises: CorpusError, OptionError; as `Cluster.map`.
    """
    with suppress(FormatError):  # there is none yet, or it is damaged
        return Survey.load(kept)
    by_number = dict(cluster.map(SurveyPart(model=model, parts=parts, sites=sites, capture=options), range(len(parts))))
    first, there = by_number[0], {number: by_number[number].rows for number in range(len(parts))}
    rows = sum(there.values())
    if tokens is not None and tokens > rows:
        raise CorpusError(
            f"The corpus has {rows:,} tokens to take. Got tokens={tokens:,}; ask for fewer, leave tokens out to take "
            "all, or add text."
        )
    capture = options if options.sink_norm is not None else replace(options, sink_norm=first.sink_norms or None)
    shares = tuple(None for _ in parts) if tokens is None else tuple(spread(tokens, there).values())
    survey = Survey(sites=tuple(first.sites), width=first.width, rows=tokens or rows, shares=shares, capture=capture)
    survey.save(kept)
    return survey


def mapped(cluster: Cluster, work: Work[Any], numbers: Sequence[int], what: str, progress: bool) -> dict[int, Any]:
    """Do work for some parts, with a bar; number -> what came of it."""
    found = {}
    with progress_bars.bar(f"{what}, parts", len(numbers), show=progress) as advance:
        for number, value in cluster.map(work, numbers):
            found[number] = value
            advance(1)
    return found


@contextmanager
def results_in(folder: str | Path | None, cluster: Cluster, run: Mapping[str, Any]) -> Iterator[Results]:
    """Where parts leave their results: the folder that was given, or one that goes with the context.

    Raises: OptionError if other machines would need one; MismatchError if it has those of another run.
    """
    if folder is None:
        if cluster.machines > 1:
            raise OptionError(
                "Workers on other machines need a folder that all of them can write: give folder=. (`itda evaluate` "
                "makes one beside a dictionary that is in a local folder.)"
            )
        with tempfile.TemporaryDirectory(prefix="itda-parts-") as temporary, Results(Path(temporary), run) as kept:
            yield kept
        return
    with Results(Path(folder), run) as kept:
        yield kept

"""What activations were made from: model, tokenizer, corpus, site and how they were captured."""

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from itda.data.corpus import Part
from itda.errors import MismatchError
from itda.models.fingerprints import ModelRecord

# Of a capture, what may differ between the parts of one corpus
_FOUND = ("tokens", "counts", "sink_norm")
_OF_ITS_PART = (*_FOUND, "seed")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where activations come from, as a whole; each row has its own `Source`."""

    model: ModelRecord
    site: str
    corpus: str
    """Fingerprint of the corpus."""
    corpus_name: str
    capture: Mapping[str, Any]
    """The options of the capture, and what they counted."""
    part: Part | None = None
    """If the corpus is a part of a larger one: which."""
    heads: int | None = None
    """Of `attn_heads`: how many heads' outputs stand side by side in a row."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for files."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises: KeyError, TypeError or ValueError for other fields than that gives.
        """
        part = Part(**fields["part"]) if fields["part"] else None
        model, capture = ModelRecord.from_dict(fields["model"]), dict(fields["capture"])
        heads = fields.get("heads")
        if heads is not None and (type(heads) is not int or heads < 1):
            raise TypeError("heads must be a number of them")
        if not all(isinstance(fields[name], str) for name in ("site", "corpus", "corpus_name")):
            raise TypeError("site and corpus must be text")
        return cls(**{**fields, "model": model, "capture": capture, "part": part})

    def check_alike(self, other: "Provenance", what: str, others: str) -> None:
        """Refuse activations that were not made in the same way from other text.

        Args:
            other: what is compared with this.
            what: what this belongs to, as a sentence begins.
            others: what the other belongs to.
        Raises: MismatchError that says in what they differ.
        """
        self.model.check_same(other.model, what)
        if other.site != self.site:
            raise MismatchError(
                f"{others} was made at {other.site!r}, {what} at {self.site!r}. Take those of one place."
            )
        mine, its = (
            {name: value for name, value in one.capture.items() if name not in _OF_ITS_PART} for one in (self, other)
        )
        if mine != its:
            names = ", ".join(name for name in mine if mine[name] != its.get(name))
            raise MismatchError(f"{others} and {what} were captured in other ways ({names}). Capture both alike.")

    @property
    def kind(self) -> str:
        """What the parts of one capture have in common, and no other capture has."""
        model = self.model
        facts = [
            model.config, model.files or model.parameters, model.tokenizer, model.settings.get("dtype"), self.site,
            {name: value for name, value in self.capture.items() if name not in _FOUND},
            self.part and asdict(replace(self.part, number=0)),
        ]  # fmt: skip
        return json.dumps(facts, sort_keys=True)


def are_whole(several: Sequence[Provenance]) -> bool:
    """Whether they are those of all the parts of one corpus, in their order."""
    first = several[0].part
    return first is not None and [provenance.part for provenance in several] == [
        replace(first, number=number) for number in range(first.count)
    ]


def joined(several: Sequence[Provenance]) -> Provenance:
    """That of the activations of several parts of a corpus together, which were checked to be alike.

    Counts are summed; of the norms that made a sink in each part it has the median.
    """
    first = several[0]
    counts: Counter[str] = Counter()
    for provenance in several:
        counts.update(provenance.capture["counts"])
    norms = [provenance.capture["sink_norm"] for provenance in several]
    asked = [provenance.capture["tokens"] for provenance in several]
    found = {
        "counts": dict(sorted(counts.items())),
        "sink_norm": None if None in norms else statistics.median(norms),
        "tokens": None if None in asked else sum(asked),
    }
    if are_whole(several) and first.part is not None:
        corpus, name = first.part.corpus, first.part.name
    else:
        corpora = "".join(provenance.corpus for provenance in several)
        corpus = hashlib.blake2b(corpora.encode(), digest_size=16).hexdigest()
        names = list(dict.fromkeys(provenance.corpus_name for provenance in several))
        name = " + ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return replace(first, corpus=corpus, corpus_name=name, capture={**first.capture, **found}, part=None)

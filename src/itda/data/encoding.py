"""The codes of a corpus with the source of every row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from itda.data import files, provenance
from itda.data.sources import Sources
from itda.pursuit import Codes, Coding


@dataclass(frozen=True, eq=False)
class Encoding:
    """N codes, where each row came from, and the dictionary they belong to."""

    codes: Codes
    sources: Sources
    dictionary: str
    """Fingerprint of the dictionary whose atoms the codes name."""
    coding: Coding
    provenance: provenance.Provenance

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        where = f"{self.provenance.site} of {self.provenance.model.id}"
        return f"Encoding({self.codes!r} at {where}, with {self.sources!r})"

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The codes of several parts of a corpus, made alike, as one; rows are numbered through all parts."""
        sources, before = [], 0
        for part in parts:
            sources.append(replace(part.sources, row=part.sources.row + before))
            before += len(part)
        return replace(
            parts[0],
            codes=Codes.concatenate([part.codes for part in parts]),
            sources=Sources.concatenate(sources),
            provenance=provenance.joined([part.provenance for part in parts]),
        )

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write codes and sources to a folder.

        Raises: OutputError if the folder exists or cannot be written.
        """
        facts = {
            "dictionary": self.dictionary,
            "coding": self.coding.to_dict(),
            "route": self.codes.route,
            "provenance": self.provenance.to_dict(),
        }
        tensors = {name: value for name, value in vars(self.codes).items() if name != "route"}
        content = {"codes": tensors, "sources": self.sources.to_tensors()}
        return files.write_folder(folder, "encoding", facts, content, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The inverse of `save`.

        Raises: FormatError if anything in the folder is missing or damaged.
        """
        facts, tensors = files.read_folder(folder, "encoding")
        with files.parsing(Path(folder)):
            codes, sources = Codes(**tensors["codes"], route=facts["route"]), Sources.from_tensors(tensors["sources"])
            if codes.atoms.ndim != 2 or not len(codes) == len(codes.unexplained) == len(sources):
                raise ValueError(f"codes of shape {tuple(codes.atoms.shape)}, but {len(sources)} sources")
            coding, origin = Coding.from_dict(facts["coding"]), provenance.Provenance.from_dict(facts["provenance"])
            return cls(codes, sources, str(facts["dictionary"]), coding, origin)

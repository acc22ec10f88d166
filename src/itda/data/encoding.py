"""The codes of a corpus with the source of every row."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from itda.data import files
from itda.data.provenance import Provenance
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
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.codes)

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
            coding, provenance = Coding.from_dict(facts["coding"]), Provenance.from_dict(facts["provenance"])
            return cls(codes, sources, str(facts["dictionary"]), coding, provenance)

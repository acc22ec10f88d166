"""What the pages of a dictionary are made of: prepared once, kept beside it, and read without torch or a model.

Codes of some text are kept by row and by atom, so that a page finds the uses of an atom, their neighbours in the
text and the atoms that occur with it without any search.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from itda.data import files
from itda.errors import FormatError, OptionError
from itda.shown import printable

KIND = "view"
_SUFFIX = ".view"
Array = NDArray[Any]


class Texts:
    """Many texts in two arrays, decoded when they are asked for."""

    def __init__(self, content: Array, ends: Array) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Texts":
        """Some texts packed."""
        encoded = [text.encode() for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return self.content[start : int(self.ends[index])].tobytes().decode()

    def arrays(self, name: str) -> dict[str, Array]:
        """For a file."""
        return {name: self.content, f"{name}_ends": self.ends}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], name: str) -> "Texts":
        """The inverse of `arrays`."""
        return cls(arrays[name], arrays[f"{name}_ends"])


class Part(NamedTuple):
    """One activation that an atom is, or is mixed from."""

    weight: float
    window: int
    """-1 for a row of a bare array."""
    start: int
    end: int
    """The token's characters in the window; for a bare array both are the row."""
    token: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Records:
    """A atoms, and the codes of N tokens of some text, at most K atoms each."""

    facts: dict[str, Any]
    """Plain values: the dictionary's own, fidelity, and how all of it was made."""
    windows: Texts
    """Stretches of text, those of atoms and those of codes."""
    documents: Array
    """uint8 (windows, 16): ids of the documents they are from."""
    window_starts: Array
    """int64 (windows,): where they begin in their documents."""
    part_ends: Array
    """int64 (A,): where the parts of each atom end."""
    part_weights: Array
    parts: Array
    """int64 (parts, 3): window and characters of the token in it."""
    part_tokens: Texts
    tokens: Array
    """int32 (N, 3): window and characters of each token, in the order of the text."""
    atoms: Array
    """int32 (N, K); -1 where a code has fewer."""
    coefficients: Array
    """float32 (N, K), in the units of the activations."""
    unexplained: Array
    """float32 (N,)."""
    offsets: Array
    """int64 (A + 1): where the uses of each atom begin and end."""
    uses: Array
    """int64 (uses,): places in the flattened codes, by atom, the largest coefficients first."""
    nearest: Array
    """int32 (A, n): the atoms most like each, the nearest first."""
    cosines: Array
    """float32 (A, n)."""
    places: Array
    """float32 (A, 2): where each atom is on the map."""
    lens: Array
    """int32 (A, 2, n): words that each atom raises and lowers at the output, by number; -1 for none."""
    lens_values: Array
    """float32 (A, 2, n), nats."""
    words: Texts
    heads: Array
    """float32 (A, heads): how much of an atom is in each head; no columns at other sites."""
    effects: dict[str, Any]
    """What leaving an atom out changes, by atom, for those that were measured."""

    def __len__(self) -> int:
        return len(self.part_ends)

    @property
    def name(self) -> str:
        """What it is called on pages."""
        return str(self.facts["name"])

    @cached_property
    def counts(self) -> Array:
        """int64 (A,): how many tokens use each atom."""
        return np.diff(self.offsets)

    @cached_property
    def sizes(self) -> Array:
        """float32 (A,): mean size of the coefficient where an atom is used; 0 for one that is not."""
        return self._summed(np.abs(self.coefficients).ravel()) / np.maximum(self.counts, 1)

    @cached_property
    def energies(self) -> Array:
        """float64 (A,): share of the energy of all codes that each atom carries."""
        energies = self._summed(np.square(self.coefficients, dtype=np.float64).ravel())
        return energies / max(float(energies.sum()), 1e-30)

    def _summed(self, values: Array) -> Array:
        owner = np.repeat(np.arange(len(self)), self.counts)
        return np.bincount(owner, weights=values[self.uses], minlength=len(self))

    def uses_of(self, atom: int) -> Array:
        """Places of an atom in the flattened codes, the largest coefficients first.

        Raises: OptionError if there is no atom of that number.
        """
        if not 0 <= atom < len(self):
            raise OptionError(f"This dictionary has atoms 0 to {len(self) - 1}. Got {atom}.")
        uses: Array = self.uses[self.offsets[atom] : self.offsets[atom + 1]]
        return uses

    def coefficients_of(self, atom: int) -> Array:
        """An atom's coefficients, the largest first.

        Raises: as `uses_of`.
        """
        values: Array = self.coefficients.ravel()[self.uses_of(atom)]
        return values

    def parts_of(self, atom: int) -> list[Part]:
        """What an atom is, the largest first."""
        first = int(self.part_ends[atom - 1]) if atom else 0
        found = []
        for place in range(first, int(self.part_ends[atom])):
            window, start, end = map(int, self.parts[place])
            found.append(Part(float(self.part_weights[place]), window, start, end, self.part_tokens[place]))
        return found

    def token_of(self, atom: int) -> str:
        """The token of its largest part."""
        return self.part_tokens[int(self.part_ends[atom - 1]) if atom else 0]

    def quoted(self, part: Part, before: int, after: int) -> tuple[str, str, str]:
        """So many characters before a token, the token, and after it, not cut to one line."""
        if part.window < 0:
            return "", f"row {part.start}", ""
        text = self.windows[part.window]
        lead = "…" if part.start > before or int(self.window_starts[part.window]) else ""
        tail = "…" if part.end + after < len(text) else ""
        return (
            lead + text[max(0, part.start - before) : part.start],
            part.token,
            text[part.end : part.end + after] + tail,
        )

    def describe(self, atom: int, before: int = 40, after: int = 16, *, brief: bool = False) -> str:
        """An atom on one line; of a mixture all parts, or briefly the largest and how many more."""
        shown, parts = [], self.parts_of(atom)
        if brief:
            parts = [max(parts, key=lambda part: part.weight)]
        for part in parts:
            lead, token, tail = self.quoted(part, before, after)
            weight = "" if part.weight == 1 else f"{part.weight:.0%} "
            shown.append(f"{weight}{printable(lead)}[{printable(token)}]{printable(tail)}")
        more = len(self.parts_of(atom)) - len(parts)
        text = " | ".join(shown) + (f" and {more} more" if more else "")
        return f"e.g. {text}" if self.facts["by_example"] else text

    def document(self, window: int) -> str:
        """The id of a window's document."""
        return bytes(self.documents[window].tolist()).hex()

    def save(self, dictionary: str | Path) -> Path:
        """Write everything beside the folder of the dictionary, whole or not at all; what was there is replaced.

        Returns: the folder that was written.
        Raises: OutputError; FormatError if there is no such dictionary.
        """
        from torch import from_numpy

        content = {
            "texts": {
                **self.windows.arrays("windows"), **self.part_tokens.arrays("part_tokens"), **self.words.arrays("words")
            },
            "view": {name: getattr(self, name) for name in _ARRAYS},
        }  # fmt: skip
        tensors = {
            file: {name: from_numpy(np.array(array)) for name, array in arrays.items()}
            for file, arrays in content.items()
        }
        facts = {**self.facts, "effects": self.effects, "dictionary": checksums_of(dictionary)}
        return files.write_folder(folder_of(dictionary), KIND, files.to_plain(facts), tensors, overwrite=True)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The inverse of `save`; loads neither torch nor the dictionary.

        Raises: FormatError if anything is missing or damaged.
        """
        facts, arrays = files.read_arrays(folder, KIND)
        with files.parsing(Path(folder)):
            names = ("windows", "part_tokens", "words")
            texts: dict[str, Any] = {name: Texts.from_arrays(arrays["texts"], name) for name in names}
            others: dict[str, Any] = {name: arrays["view"][name] for name in _ARRAYS}
            effects = facts.pop("effects")
            facts.pop("files", None)
            records = cls(facts=facts, effects=effects, **texts, **others)
            records._check()
        return records

    def _check(self) -> None:
        count = len(self)
        rows = (len(self.tokens), len(self.coefficients), len(self.unexplained))
        by_atom = (len(self.nearest), len(self.cosines), len(self.places), len(self.lens), len(self.heads))
        if set(rows) != {len(self.atoms)} or set(by_atom) != {count} or len(self.offsets) != count + 1:
            raise FormatError("The arrays of these pages do not fit together. Prepare them again.")


_ARRAYS = (
    "documents", "window_starts", "part_ends", "part_weights", "parts", "tokens", "atoms", "coefficients",
    "unexplained", "offsets", "uses", "nearest", "cosines", "places", "lens", "lens_values", "heads",
)  # fmt: skip


def folder_of(dictionary: str | Path) -> Path:
    """Where the pages of a dictionary's folder are prepared: beside it, so that it stays as it was written."""
    path = Path(dictionary)
    return path.with_name(path.name + _SUFFIX)


def checksums_of(dictionary: str | Path) -> dict[str, str]:
    """The checksums of a dictionary's files, by which it is known without being read.

    Raises: FormatError if the folder holds no dictionary.
    """
    checksums: dict[str, str] = files.read_manifest(dictionary, "dictionary")["files"]
    return checksums

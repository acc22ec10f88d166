"""A dictionary: unit atoms that are real activations, where each came from, and how it was built."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor

from itda.data import files, hub
from itda.data.activations import Activations
from itda.data.build_records import BuildRecord
from itda.data.entries import RowsOnDisk
from itda.data.heads import name_heads, shares_of
from itda.data.mixtures import Mixtures
from itda.data.provenance import Provenance
from itda.data.sources import Source, Sources
from itda.data.token_means import TokenMeans
from itda.errors import MismatchError, OptionError, ShapeError
from itda.html import table
from itda.options import whole
from itda.pursuit import Codes, Coding, Prepared, chosen_coding, prepare, pursue, rebuild
from itda.shapes import as_matrix

_ID_BYTES = 16
_IN_A_CELL = 8  # atoms that a notebook shows

Kind = Literal["activations", "mixtures", "learned"]
"""What atoms are: each one activation, a convex mixture of a few, or a direction that no activation has."""


class FoundAtom(NamedTuple):
    """One answer of `Dictionary.find`."""

    atom: int
    score: float
    """Rows of the build sample that use it, or the energy it carries on given activations."""
    source: Source
    text: str
    """See `Dictionary.describe`."""

    def __repr__(self) -> str:
        return f"FoundAtom({self.atom}, {self.score:.4g}, {self.text!r})"

    def __str__(self) -> str:
        return f"{self.atom:>6}  {self.score:>10.4g}  {self.text!r}"


def checked_dictionary(dictionary: Any) -> "Dictionary":
    """The dictionary itself.

    Raises: OptionError if it is something else.
    """
    if not isinstance(dictionary, Dictionary):
        raise OptionError(
            f"This needs an itda.Dictionary. Got {type(dictionary).__name__}; open one with from_pretrained."
        )
    return dictionary


@dataclass(frozen=True, eq=False, kw_only=True)
class Dictionary:
    """A atoms of width D with their sources; encodes activations and decodes codes.

    Source: Leask, Nanda & Al Moubayed 2025.
    """

    atoms: Tensor
    """float32 (A, D), unit norm: activations, or mixtures of them, less the mean, scaled to norm 1."""
    norms: Tensor
    """float32 (A,): lengths of those activations less the mean; 1 for learned atoms."""
    mean: Tensor
    """float32 (D,): taken off before a pursuit and put back by `decode`; zero if not centred."""
    sources: Sources
    """Where each atom comes from; `sources[17]` is a `Source`. Of a mixture, where its largest part comes from; of a
    learned atom, a place in which it is strong: an example, not a name."""
    coding: Coding
    """How `encode` makes a code unless told otherwise."""
    build: BuildRecord
    usage_counts: Tensor
    """int64 (A,): how many rows of a sample of the build rows use each atom."""
    usage_energy: Tensor
    """float32 (A,): summed squared coefficients on that sample."""
    documents: tuple[str, ...] = ()
    """Ids of the documents it was built from; evaluation leaves them out."""
    provenance: Provenance | None = None
    """Model, site, corpus and capture; None if built from a bare array."""
    token_means: TokenMeans | None = None
    """Mean activation per token id over the build rows: the baseline of the residual FVU."""
    kind: Kind = "activations"
    """What the atoms are. `learned` ones have no name, and are refused wherever one is needed."""
    mixtures: Mixtures | None = None
    """Of which activations, and how much of each, where the atoms are mixtures."""

    def __len__(self) -> int:
        return len(self.atoms)

    def __repr__(self) -> str:
        where = f"{self.site} of {self.model_id}" if self.provenance else "a bare array"
        steps = f"{self.coding.steps} steps{' in the mean' if self.coding.varies else ''}"
        return f"Dictionary({len(self):,} atoms of width {self.width} from {where}, {steps})"

    def _repr_html_(self) -> str:
        most = torch.argsort(self.usage_counts, descending=True, stable=True)[:_IN_A_CELL].tolist()
        rows = [(atom, int(self.usage_counts[atom]), self.describe(atom)) for atom in most]
        return str(table(repr(self), ("atom", "uses", "text, of the atoms that are used most"), rows))

    @property
    def width(self) -> int:
        """D, the width of the activations."""
        return self.atoms.shape[1]

    @property
    def activations(self) -> Tensor:
        """The activations, or mixtures of them, that the atoms were, float32 (A, D), up to rounding.

        Raises: OptionError for learned atoms, which were none.
        """
        self.check_named("To give atoms back as activations")
        return self.atoms * self.norms[:, None] + self.mean

    @property
    def model_id(self) -> str:
        """The name or path of the model it was built on."""
        return self._known_provenance.model.id

    @property
    def site(self) -> str:
        """The place in the model it was built at."""
        return self._known_provenance.site

    @property
    def _known_provenance(self) -> Provenance:
        if self.provenance is None:
            raise OptionError("This dictionary was built from a bare array, so it belongs to no model and no site.")
        return self.provenance

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the atoms and the mean: codes belong to one fingerprint."""
        hasher = hashlib.blake2b(digest_size=_ID_BYTES)
        for tensor in (self.atoms, self.mean):
            hasher.update(str(tuple(tensor.shape)).encode())
            hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    @cached_property
    def _prepared(self) -> dict[torch.device, Prepared]:
        return {}

    def prepare(self, *, memory: int | str | None = None, device: str | torch.device = "cpu") -> Prepared:
        """Compute once what pursuits on a device need, within a budget; `encode` uses it from then on.

        Args:
            memory: bytes for the inner products of the atoms, or text as "2GiB"; None for half of what is free.
            device: where the activations will be.
        Raises: OptionError for a budget that cannot be read.
        """
        place = torch.device(device)
        self._prepared[place] = prepare(self.atoms.to(place), memory=memory)
        return self._prepared[place]

    def encode(
        self, rows: Any, *, steps: int | None = None, coding: Coding | None = None, backend: str = "auto"
    ) -> Codes:
        """Write activations as sparse sums of atoms.

        Args:
            rows: torch or numpy matrix (N, D) of activations as the model has them, not centred;
                or Activations of this dictionary's site.
            steps, coding: instead of the dictionary's own coding.
            backend: see `itda.pursuit.pursue`.
        Returns: Codes; atoms int32 (N, K), coefficients float32 (N, K), unexplained float32 (N,).
        Raises: ShapeError for another width; MismatchError for Activations of another model.
        """
        if isinstance(rows, Activations | RowsOnDisk):
            self.check_activations(rows)
            rows = rows.rows
        advice = f"Capture them at {self.site!r} of {self.model_id!r}." if self.provenance else ""
        matrix = as_matrix(rows, "rows", "N, D", width=self.width, advice=advice, look=False)
        used = chosen_coding(self.coding, coding, steps)
        if used.steps > len(self):
            raise OptionError(f"steps={used.steps} is more than the {len(self)} atoms of this dictionary. Lower steps.")
        mean = self.mean.to(matrix.device)
        prepared = self._prepared.get(matrix.device) or self.prepare(device=matrix.device)
        return pursue(matrix, prepared, used, backend=backend, mean=mean)

    def decode(self, codes: Codes) -> Tensor:
        """The activations that codes stand for, float32 (N, D), the mean put back.

        Raises: ShapeError if the codes use an atom that is not here.
        """
        if not isinstance(codes, Codes):
            raise ShapeError(f"decode takes the Codes that encode gives. Got {type(codes).__name__} instead.")
        device = codes.atoms.device
        return rebuild(codes, self.atoms.to(device)) + self.mean.to(device)

    def check_activations(self, activations: Activations | RowsOnDisk) -> None:
        """Refuse activations of another model or site.

        Raises: MismatchError.
        """
        if self.provenance is None:
            return
        self.provenance.model.check_same(activations.provenance.model, "This dictionary")
        if activations.site != self.site:
            raise MismatchError(
                f"This dictionary was built at {self.site!r}. Got activations of {activations.site!r}. "
                f"Capture them at {self.site!r}, or pass their .rows to go on all the same."
            )

    def check_same_place(self, other: "Dictionary", name: str) -> None:
        """Refuse a dictionary of another model or site; one of bare rows need only have the width.

        Raises: MismatchError; OptionError for what is no dictionary.
        """
        checked_dictionary(other)
        if other.width != self.width:
            raise MismatchError(f"{name} has width {other.width:,}, not {self.width:,}: it is of another place.")
        if self.provenance is None or other.provenance is None:
            return
        self.provenance.model.check_same(other.provenance.model, name)
        if other.site != self.site:
            raise MismatchError(f"{name} was built at {other.site!r}, and this dictionary at {self.site!r}.")

    def check_named(self, purpose: str) -> None:
        """Refuse learned atoms: no text names them.

        Raises: OptionError.
        """
        if self.kind == "learned":
            raise OptionError(
                f"{purpose} takes atoms that are activations or mixtures of them. These were made with "
                f"method={self.build.method!r} and belong to no text. Build with method='budget' or 'mixture'."
            )

    def find(
        self, text: str | None = None, *, token: str | None = None, firing_on: Any = None, limit: int = 20
    ) -> list[FoundAtom]:
        """Look for atoms by what they come from or by what they do.

        Args:
            text: atoms whose token or context holds this text (any case); the token itself first.
            token: atoms whose token is exactly this text, white space around it aside.
            firing_on: activations (N, D): atoms that carry the most energy on them.
            limit: the most answers.
        Returns: the atoms, the most used first.
        Raises: OptionError unless exactly one question is asked.
        """
        limit = whole("limit", limit)
        if sum(question is not None for question in (text, token, firing_on)) != 1:
            raise OptionError("find takes one question: a text, token= or firing_on=.")
        for question in (text, token):
            if question is not None and not (isinstance(question, str) and question):
                raise OptionError(f"find looks for a text that is not empty. Got {question!r} instead.")
        if firing_on is not None:
            codes = self.encode(firing_on)
            score = codes.energy(len(self)).cpu()
            order = torch.argsort(score, descending=True, stable=True)[:limit]
            return [self._found(atom, float(score[atom])) for atom in order.tolist() if score[atom] > 0]
        ranked = []
        for atom in range(len(self)):
            parts = [part.source for part in self.mixtures[atom]] if self.mixtures else [self.sources[atom]]
            ranks = [rank for source in parts if (rank := source.rank(text, token)) is not None]
            if ranks:
                ranked.append((min(ranks), -int(self.usage_counts[atom]), atom))
        return [self._found(atom, float(-uses)) for _, uses, atom in sorted(ranked)[:limit]]

    @property
    def by_example(self) -> bool:
        """Whether the texts of the atoms are examples of what uses them, not names."""
        return self.kind == "learned" and self.sources.named

    def _found(self, atom: int, score: float) -> FoundAtom:
        return FoundAtom(atom, score, self.sources[atom], self.describe(atom))

    def describe(self, atom: int) -> str:
        """An atom on one line: the text it comes from, of a mixture the share of each text, of a learned atom an
        example after `e.g.`.
        """
        text = f"e.g. {self.sources[atom].text}" if self.by_example else self.sources[atom].text
        if self.mixtures is not None:
            text = self.mixtures.describe(atom)
        return name_heads(self.atoms[atom], self.provenance) + text

    @property
    def head_shares(self) -> Tensor:
        """How much of each atom is in each attention head, (A, heads); see `itda.data.heads.shares_of`."""
        return shares_of(self.atoms, self.provenance)

    def origin(self, atom: int) -> dict[str, Any]:
        """Where an atom comes from as plain values, for JSON; of a mixture also its parts."""
        facts = {**self.sources[atom].to_dict(), "kind": self.kind}
        if self.mixtures is not None:
            facts["mixture"] = [{"weight": part.weight, **part.source.to_dict()} for part in self.mixtures[atom]]
        if self.provenance is not None and self.provenance.heads:
            facts["heads"] = self.head_shares[atom].tolist()
        return facts

    def facts(self) -> dict[str, Any]:
        """Everything about the dictionary that is not an array, as plain values."""
        facts: dict[str, Any] = files.to_plain(
            {
                "atoms": len(self),
                "width": self.width,
                "kind": self.kind,
                "coding": self.coding.to_dict(),
                "build": asdict(self.build),
                "provenance": self.provenance.to_dict() if self.provenance else None,
            }
        )
        return facts

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write everything to a folder, whole or not at all; saving it again gives the same bytes.

        Raises: OutputError if the folder exists or cannot be written.
        """
        arrays = {
            "atoms": self.atoms,
            "norms": self.norms,
            "mean": self.mean,
            "usage_counts": self.usage_counts,
            "usage_energy": self.usage_energy,
            "documents": torch.tensor([list(bytes.fromhex(id_)) for id_ in self.documents], dtype=torch.uint8),
        }
        content = {"dictionary": arrays, "sources": self.sources.to_tensors()}
        if self.token_means is not None:
            content["token_means"] = self.token_means.to_tensors()
        if self.mixtures is not None:
            content["mixtures"] = self.mixtures.to_tensors()
        return files.write_folder(folder, "dictionary", self.facts(), content, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> Self:
        """Read a dictionary from a folder, or from the Hugging Face hub by `user/name`.

        Raises: FormatError if anything is missing, damaged, of a newer format, or no dictionary.
        """
        folder = hub.local_folder(name, revision)
        facts, tensors = files.read_folder(folder, "dictionary")
        with files.parsing(Path(folder)):
            return cls._from_parts(facts, tensors)

    @classmethod
    def _from_parts(cls, facts: Mapping[str, Any], tensors: Mapping[str, dict[str, Tensor]]) -> Self:
        arrays = tensors["dictionary"]
        provenance = facts["provenance"]
        build = {**facts["build"], "notes": tuple(facts["build"]["notes"])}
        dictionary = cls(
            atoms=arrays["atoms"],
            norms=arrays["norms"],
            mean=arrays["mean"],
            sources=Sources.from_tensors(tensors["sources"]),
            coding=Coding.from_dict(facts["coding"]),
            build=BuildRecord(**build),
            usage_counts=arrays["usage_counts"],
            usage_energy=arrays["usage_energy"],
            documents=tuple(bytes(row.tolist()).hex() for row in arrays["documents"]),
            provenance=Provenance.from_dict(provenance) if provenance else None,
            token_means=TokenMeans.from_tensors(tensors["token_means"]) if "token_means" in tensors else None,
            kind=facts["kind"],
            mixtures=Mixtures.from_tensors(tensors["mixtures"]) if "mixtures" in tensors else None,
        )
        if dictionary.kind not in get_args(Kind) or (dictionary.mixtures is not None) != (
            dictionary.kind == "mixtures"
        ):
            raise ValueError(f"its atoms are of the kind {dictionary.kind!r}")
        size, width = facts["atoms"], facts["width"]
        if dictionary.atoms.shape != (size, width) or dictionary.mean.shape != (width,):
            raise ValueError(f"the arrays are not {size} atoms of width {width}")
        lengths = {
            len(dictionary.sources),
            *map(len, (dictionary.norms, dictionary.usage_counts, dictionary.usage_energy)),
            *([len(dictionary.mixtures)] if dictionary.mixtures is not None else []),
        }
        if lengths != {size}:
            raise ValueError("the arrays do not describe the same number of atoms")
        return dictionary

    def without_texts(self) -> Self:
        """The same, knowing of each source the token, its place and the document's hash, but no text around it."""
        sources = self.sources.without_texts()
        mixtures = self.mixtures and replace(self.mixtures, sources=self.mixtures.sources.without_texts())
        return replace(self, sources=sources, mixtures=mixtures)

    def push_to_hub(
        self, repo_id: str, *, report: Any = None, texts: Literal["window", "none"] = "window",
        license: str | None = None, private: bool | None = None, token: str | None = None,
    ) -> str:  # fmt: skip
        """Upload to the Hugging Face hub with a card that says what it is; returns its address.

        Args: as `itda.publishing.push`.
        Raises: OptionError; OutputError if the hub refuses.
        """
        from itda import publishing  # the one import upwards: a card is made from a whole dictionary

        return publishing.push(self, repo_id, report=report, texts=texts, license=license, private=private, token=token)

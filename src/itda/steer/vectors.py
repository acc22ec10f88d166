"""A steering vector: a direction at each of some sites, with the norms that its strength is measured in."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from itda.data.dictionary import Dictionary, checked_dictionary
from itda.errors import MismatchError, OptionError, ShapeError
from itda.models.fingerprints import ModelRecord
from itda.models.hook_names import to_site
from itda.models.loading import Model, checked_model
from itda.options import above_zero, finite_number, is_number, is_whole, one_of, several
from itda.shapes import finite
from itda.steer.applying import Gate, Steering, TextGate, steering
from itda.steer.directions import DIRECTIONS, UNPAIRED
from itda.steer.operators import OPERATORS, unit
from itda.steer.positions import Tokens, checked_tokens
from itda.steer.reading import read_texts

if TYPE_CHECKING:
    from itda.compare import Transplant
    from itda.steer.atoms import VectorExplanation

Method = Literal["mean", "pca", "pca_centred", "logistic"]
Pairs = Sequence[tuple[str, str]]
_SHOWN = 4  # sites of a vector, in its name
_NOTHING = 1e-5  # of a direction's length: what rounding leaves


@dataclass(frozen=True, eq=False, kw_only=True)
class SteeringVector:
    """Directions of one model. Add, subtract and scale them; open `apply` to steer.

    A vector that was fitted has length 1 at every site, so that a strength of 1 adds as much as activations there are
    usually long; sums and multiples of vectors are as long as they come out.
    """

    directions: Mapping[str, Tensor]
    """Site -> float32 (D,)."""
    norms: Mapping[str, float]
    """Site -> median norm of the model's activations there, sinks left out."""
    model: ModelRecord | None
    """The model it belongs to; None for a direction of unknown origin."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it came about: method, pairs, read, atoms."""

    def __post_init__(self) -> None:
        if not self.directions or set(self.directions) != set(self.norms):
            raise OptionError("A steering vector needs a direction and a norm at each of its sites, and at least one.")
        for name, direction in self.directions.items():
            if not isinstance(direction, Tensor) or direction.ndim != 1:
                raise ShapeError(f"The direction at {name!r} must be of shape (D,). Got {_shape(direction)} instead.")
            finite(direction[None], f"The direction at {name!r}")

    def __repr__(self) -> str:
        lengths = ", ".join(f"{float(one.norm()):.3g} at {name}" for name, one in [*self.directions.items()][:_SHOWN])
        more = f" and {len(self.directions) - _SHOWN} more sites" if len(self.directions) > _SHOWN else ""
        of = f" of {self.model.id}" if self.model else ""
        return f"SteeringVector({self.facts.get('method', 'given')}; length {lengths}{more}{of})"

    @property
    def sites(self) -> tuple[str, ...]:
        """Where it is."""
        return tuple(self.directions)

    @classmethod
    def fit(
        cls,
        model: Model,
        pairs: Pairs,
        sites: Sequence[str] | None = None,
        *,
        method: Method = "mean",
        read: str | int = "last",
        progress: bool = True,
    ) -> Self:
        """Find the direction from the second text of each pair to the first.

        Args:
            model: the model to be steered.
            pairs: a list of (positive, negative) texts; or a tuple of two lists of texts, which for `mean` need not
                be as many.
            sites: where; the middle layer by default.
            method: `mean`, `pca`, `pca_centred` or `logistic`; see `itda.steer.directions`.
            read: the row of a text: `last` token, `mean` over its tokens, or a place; of `mean` also `tokens`, all of
                them, as for traits from a few pairs.
            progress: draw a bar on stderr.
        Returns: a vector of length 1 at each site.
        Raises: CorpusError for empty texts; OptionError for pairs of unequal number, or texts that are all alike.
        """
        checked_model(model)
        one_of("method", method, tuple(DIRECTIONS))
        if read == "tokens" and method not in UNPAIRED:
            raise OptionError(f"{method} takes one row of each text. Read the last token, the mean, or a place.")
        positive, negative = _sides(pairs, method)
        where = [model.middle_site] if sites is None else several("sites", sites)
        states = read_texts(model, [*positive, *negative], where, read=read, progress=progress)
        directions = {}
        for name, rows in states.rows.items():
            first = states.owner < len(positive)
            found = DIRECTIONS[method](rows[first], rows[~first])
            if float(torch.linalg.vector_norm(found)) <= 1e-6 * states.norms[name]:
                raise OptionError(
                    f"The two sides are the same to this model at {name}: there is no direction between them."
                )
            directions[name] = unit(found)
        facts = {"method": method, "read": read, "positive": len(positive), "negative": len(negative)}
        return cls(directions=directions, norms=states.norms, model=model.record, facts=facts)

    @classmethod
    def from_direction(cls, model: Model, site: str, direction: Any, *, norm: float | None = None) -> Self:
        """A direction that was found elsewhere, at its own length.

        Args:
            model: the model it belongs to.
            site: where.
            direction: float (D,).
            norm: the median norm of activations there; measured on the embedded text if it is not known.
        """
        checked_model(model)
        place = model.site(site)
        if norm is not None:
            norm = above_zero("norm", norm)
        try:
            given = direction if isinstance(direction, Tensor) else np.ascontiguousarray(direction)
            found = torch.as_tensor(given, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ShapeError(f"A direction is a vector of numbers. Got {type(direction).__name__} instead.") from error
        if found.ndim != 1 or (place.width is not None and len(found) != place.width):
            raise ShapeError(f"A direction at {site!r} must be of shape ({place.width},). Got {_shape(found)} instead.")
        return cls(
            directions={place.name: found}, norms={place.name: norm or usual_norm(model, site)}, model=model.record,
            facts={"method": "direction"},
        )  # fmt: skip

    @classmethod
    def from_atom(cls, dictionary: Dictionary, atom: int) -> Self:
        """The direction of one atom, which its text names.

        Raises: OptionError for an atom that is not there, or a dictionary of a bare array.
        """
        return cls.from_atoms(dictionary, {atom: 1.0})

    @classmethod
    def from_atoms(cls, dictionary: Dictionary, weights: Mapping[int, float]) -> Self:
        """The weighted sum of some atoms, each of length 1.

        Raises: as `from_atom`.
        """
        checked_dictionary(dictionary)
        provenance = dictionary.provenance
        if provenance is None:
            raise OptionError("This dictionary was built from a bare array, so its atoms belong to no model.")
        if not isinstance(weights, Mapping):
            raise OptionError(f"from_atoms takes {{atom: weight}}. Got {type(weights).__name__} instead.")
        weights = {atom: finite_number("a weight", weight) for atom, weight in weights.items()}
        wrong = [atom for atom in weights if not is_whole(atom) or not 0 <= atom < len(dictionary)]
        if wrong or not weights:
            raise OptionError(
                f"Atoms are numbers from 0 to {len(dictionary) - 1}. Got {wrong[0] if wrong else 'none'!r}."
            )
        if not any(weights.values()):
            raise OptionError("All of these weights are 0: there is no direction. Give one that is not.")
        places = torch.tensor(list(weights))
        direction = torch.tensor(list(weights.values()), dtype=torch.float32) @ dictionary.atoms[places]
        lengths = torch.linalg.vector_norm(dictionary.atoms * dictionary.norms[:, None] + dictionary.mean, dim=1)
        return cls(
            directions={dictionary.site: direction}, norms={dictionary.site: float(lengths.median())},
            model=provenance.model,
            facts={"method": "atoms", "dictionary": dictionary.fingerprint,
                   "atoms": {str(atom): float(weight) for atom, weight in weights.items()},
                   "texts": [dictionary.describe(atom) for atom in weights]},
        )  # fmt: skip

    def apply(
        self,
        model: Model,
        strength: float = 1.0,
        *,
        op: str = "add",
        tokens: Tokens = "all",
        when: Gate | TextGate | None = None,
        check_model: bool = True,
    ) -> AbstractContextManager[Steering]:
        """Steer a model while the context is open.

        Args:
            model: the model it belongs to.
            strength: of `add` and `add_norm`, times the median norm of activations at the site and the vector's own
                length; of `rotate` and `ablate` see `itda.steer.operators`.
            op: `add`, `add_norm`, `rotate` or `ablate`.
            tokens: `all`, `prompt`, `generation`, `last`, places, a slice, or `After(token)`. Padding never.
            when: how much of the change each activation gets, or, of a gate of whole texts, each text.
            check_model: refuse a model with other weights.
        Returns: a context; what it is opened as says what is done.
        Raises: MismatchError for another model; OptionError.
        """
        checked_model(model)
        one_of("op", op, tuple(OPERATORS))
        strength = finite_number("strength", strength)
        if check_model and self.model is not None:
            self.model.check_same(model.record, "This steering vector")
        for name, direction in self.directions.items():
            width = model.site(name).width
            if width is not None and width != len(direction):
                raise MismatchError(
                    f"The vector has {len(direction)} numbers at {name!r}, where this model's activations have {width}."
                )
        operator = OPERATORS[op]
        wanted = checked_tokens(tokens)

        def change_of(name: str) -> Any:
            amount = torch.tensor(strength * (self.norms[name] if operator.scaled else 1.0), dtype=torch.float32)
            direction = self.directions[name].float()
            return lambda values: operator.apply(values, direction.to(values.device), amount.to(values.device))

        told = Steering(op, self.sites, wanted, float(strength), operator.unit)
        return steering(
            model, {name: change_of(name) for name in self.sites}, wanted, when, told, check_model=check_model
        )

    def __add__(self, other: "SteeringVector") -> Self:
        """The sum at all sites of either."""
        if not isinstance(other, SteeringVector):
            return NotImplemented
        if self.model is not None and other.model is not None and not self.model.is_same_model(other.model):
            raise MismatchError(f"These vectors are of different models: {self.model.id!r} and {other.model.id!r}.")
        directions, norms = dict(self.directions), dict(self.norms)
        for name, direction in other.directions.items():
            # Lengths are in units of a norm: the first one's stays
            scale = other.norms[name] / norms[name] if name in norms else 1.0
            directions[name] = directions[name] + scale * direction if name in directions else direction
            norms.setdefault(name, other.norms[name])
        facts = {"method": "sum", "of": [dict(self.facts), dict(other.facts)]}
        return replace(self, directions=directions, norms=norms, model=self.model or other.model, facts=facts)

    def __mul__(self, factor: float) -> Self:
        """Every direction times a number."""
        if not is_number(factor):
            return NotImplemented
        return replace(self, directions={name: factor * one for name, one in self.directions.items()})

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> Self:
        return self * (1 / factor)

    def __neg__(self) -> Self:
        return self * -1.0

    def __sub__(self, other: "SteeringVector") -> Self:
        return self + -other if isinstance(other, SteeringVector) else NotImplemented

    def normalised(self) -> Self:
        """The same at length 1 everywhere."""
        return replace(self, directions={name: unit(one) for name, one in self.directions.items()})

    def orthogonal_to(self, other: "SteeringVector") -> Self:
        """Less its part along another one, at the sites that both have.

        Raises: OptionError where nothing else is in it.
        """
        if not isinstance(other, SteeringVector):
            raise OptionError(f"orthogonal_to takes another SteeringVector. Got {type(other).__name__}.")
        directions = dict(self.directions)
        for name in set(directions) & set(other.directions):
            along = unit(other.directions[name])
            left = directions[name] - (directions[name] @ along) * along
            if float(left.norm()) <= _NOTHING * float(directions[name].norm()):
                raise OptionError(f"At {name!r} the vector points along the other one, so nothing of it is left.")
            directions[name] = left
        return replace(self, directions=directions)

    def at(self, *sites: str) -> Self:
        """Only at some of its sites.

        Raises: OptionError for a site it was not fitted at.
        """
        sites = tuple(to_site(name) if isinstance(name, str) else name for name in sites)
        unknown = [name for name in sites if not isinstance(name, str) or name not in self.directions]
        if unknown or not sites:
            raise OptionError(
                f"This vector is at {', '.join(self.sites)}. Got {unknown[0] if unknown else 'no site'!r}."
            )
        return replace(
            self, directions={name: self.directions[name] for name in sites},
            norms={name: self.norms[name] for name in sites},
        )  # fmt: skip

    def explain(self, dictionary: Dictionary, *, count: int = 8) -> "VectorExplanation":
        """Which atoms it is made of, with their texts; see `itda.steer.atoms.explain`.

        Raises: OptionError for a vector that is not at the dictionary's site; MismatchError for one of another model.
        """
        from itda.steer.atoms import explain

        return explain(self, dictionary, count=count)

    def transfer(self, dictionary: Dictionary, there: "Transplant", *, count: int = 64) -> "SteeringVector":
        """The same vector in another model, through the atoms that both have; see `itda.steer.atoms.transfer`.

        Raises: OptionError; MismatchError.
        """
        from itda.steer.atoms import transfer

        return transfer(self, dictionary, there, count=count)

    def to_gguf(self, path: str | Path, *, strength: float = 1.0) -> Path:
        """Write a control vector for llama.cpp: what is added at scale 1 there is what `strength` adds here.

        Raises: OptionError for sites that are not the output of a layer, or of layer 0, which a GGUF control vector
            cannot carry; OutputError; MissingExtraError.
        """
        from itda.steer.vector_files import to_gguf

        return to_gguf(self, path, strength)

    @classmethod
    def from_gguf(cls, path: str | Path, model: Model) -> "SteeringVector":
        """Read a control vector of llama.cpp's tools or repeng; strength 1 adds what scale 1 adds there.

        Raises: FormatError; ShapeError if it is of another width than the model.
        """
        from itda.steer.vector_files import from_gguf

        return from_gguf(path, model)

    def save(self, path: str | Path) -> Path:
        """Write it to a safetensors file, with what model it belongs to.

        Raises: OptionError for another ending; OutputError.
        """
        from itda.steer.vector_files import save

        return save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> "SteeringVector":
        """The inverse of `save`.

        Raises: FormatError.
        """
        from itda.steer.vector_files import load

        return load(path)


def usual_norm(model: Model, site: str) -> float:
    """The median norm of activations at a site, on some of the embedded text, sinks left out."""
    from itda.data.corpus import Corpus
    from itda.models import tokenizing

    texts = [document.text for document, _ in zip(Corpus.embedded(), range(8), strict=False)]
    parts = [cut[0] for cut in tokenizing.windows(model, texts, length=model.window) if cut]
    place = model.site(site)
    values = model.read(tokenizing.batch(model, parts, length=None), [place])[place.name]
    from itda.steer.reading import median_norm

    rows = torch.cat([values[index, : len(part)] for index, part in enumerate(parts)]).float()
    return median_norm(torch.linalg.vector_norm(rows, dim=1).cpu())


def _sides(pairs: Any, method: str) -> tuple[list[str], list[str]]:
    """Positive and negative texts."""
    if isinstance(pairs, Mapping | str) or not isinstance(pairs, Sequence) or not pairs:
        raise OptionError("pairs must be a list of (positive, negative) texts. Got " + type(pairs).__name__ + ".")
    if isinstance(pairs, tuple) and len(pairs) == 2 and all(isinstance(side, list) for side in pairs):
        positive, negative = pairs
        if len(positive) != len(negative) and method not in UNPAIRED:
            raise OptionError(
                f"{method} takes pairs, as many negative texts as positive ones. Got {len(positive)} and "
                f"{len(negative)}."
            )
        return list(positive), list(negative)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise OptionError(
            "Each of pairs must be two texts, (positive, negative). Two lists of texts are given as a tuple."
        )
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__

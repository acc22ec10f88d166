"""Atoms that are convex mixtures of a few named activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from itda.data.sources import Source, Sources


class Ingredient(NamedTuple):
    """One activation in a mixture."""

    weight: float
    """Its share; those of a mixture add up to 1."""
    source: Source


@dataclass(frozen=True, eq=False)
class Mixtures:
    """What each of A atoms is mixed from: atom j is the direction of sum_p weights[j, p] x_jp, less the mean."""

    weights: Tensor
    """float32 (A, P), not negative, the largest first; each row adds up to 1. 0 where fewer than P are mixed."""
    sources: Sources
    """Of the A * P activations x_jp, atom by atom. Where the weight is 0 it is that of the first."""

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, atom: int) -> list[Ingredient]:
        """The ingredients of one atom, the largest first."""
        parts = self.weights.shape[1]
        return [
            Ingredient(float(weight), self.sources[atom * parts + place])
            for place, weight in enumerate(self.weights[atom])
            if weight > 0
        ]

    @property
    def largest(self) -> Sources:
        """The source of each atom's largest ingredient."""
        return self.sources.select(torch.arange(0, len(self.sources), self.weights.shape[1]))

    def describe(self, atom: int, *, before: int = 24, after: int = 8) -> str:
        """An atom as shares of texts, on one line: `41% Once upon a [time] | 30% ...`."""
        quoted = ((part.weight, part.source) for part in self[atom])
        return " | ".join(f"{weight:.0%} {source.shortened(before, after)}" for weight, source in quoted)

    def select(self, atoms: Tensor) -> Self:
        """Those of some atoms, by index."""
        parts = self.weights.shape[1]
        places = (atoms[:, None] * parts + torch.arange(parts)).flatten()
        return type(self)(self.weights[atoms], self.sources.select(places))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Those of all parts one after the other; all mix at most as many."""
        return cls(torch.cat([part.weights for part in parts]), Sources.concatenate(part.sources for part in parts))

    def to_tensors(self) -> dict[str, Tensor]:
        """For safetensors files."""
        return {"weights": self.weights, **self.sources.to_tensors()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """The inverse of `to_tensors`.

        Raises: FormatError or ValueError if the arrays do not fit together.
        """
        mixtures = cls(tensors["weights"], Sources.from_tensors(tensors))
        weights = mixtures.weights
        if weights.ndim != 2 or weights.numel() != len(mixtures.sources):
            raise ValueError("the weights of the mixtures do not fit their sources")
        if not bool((weights >= 0).all()) or not torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-4):
            raise ValueError("the weights of a mixture do not add up to 1")
        return mixtures

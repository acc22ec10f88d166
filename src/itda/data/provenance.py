"""What activations were made from: model, tokenizer, corpus, site and how they were captured."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from itda.errors import MismatchError


class DifferentSettingsWarning(UserWarning):
    """The same weights, but run in another data type, device or attention implementation."""


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """Which model it was. The same weights have the same fingerprints, however they are run."""

    id: str
    """The name or path it was loaded by."""
    config: str
    """Hash of the configuration."""
    files: str | None
    """Hash over the weight files (name, size, header, sampled blocks); None for a model object."""
    parameters: str | None
    """Hash of sampled parameter values, rounded to bfloat16; None if some are not in memory."""
    tokenizer: str
    """Hash of the tokenizer's rules and vocabulary."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Data type, device, attention implementation: a difference changes the last bits, not the model."""

    def is_same_model(self, other: "ModelRecord") -> bool:
        """Whether configuration and weights are the same; files decide where both have them."""
        if self.config != other.config:
            return False
        if self.files and other.files and self.files == other.files:
            return True
        if self.parameters and other.parameters:
            return self.parameters == other.parameters
        return bool(self.files) and self.files == other.files

    def check_same(self, other: "ModelRecord", what: str) -> None:
        """Refuse another model, and warn of the same one under other settings.

        Args:
            other: the model that is about to be used.
            what: what belongs to this one, for the message ("This dictionary").
        Raises: MismatchError that names both models.
        """
        if not self.is_same_model(other):
            raise MismatchError(
                f"{what} belongs to the model {self.id!r} (configuration {self.config[:8]}, weights "
                f"{_short(self)}). Got {other.id!r} (configuration {other.config[:8]}, weights {_short(other)}). "
                "Load that model, or go on all the same with check_model=False (--any-model)."
            )
        if self.tokenizer != other.tokenizer:
            raise MismatchError(
                f"{what} was made with another tokenizer ({self.tokenizer[:8]}) than the one that came with "
                f"{other.id!r} ({other.tokenizer[:8]}). Use that tokenizer, or go on with check_model=False (--any-model)."
            )
        differing = [
            f"{name} {value!r} then, {other.settings[name]!r} now"
            for name, value in self.settings.items()
            if other.settings.get(name, value) != value
        ]
        if differing:
            warnings.warn(
                f"{what} was made with the same model under other settings: {'; '.join(differing)}.",
                DifferentSettingsWarning,
                stacklevel=3,
            )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        return cls(**fields)


def _short(record: ModelRecord) -> str:
    return (record.files or record.parameters or "unknown")[:8]


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

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for files."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**{**fields, "model": ModelRecord.from_dict(fields["model"])})

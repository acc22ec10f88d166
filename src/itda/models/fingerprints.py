"""Hashes that say which model it is, without reading hundreds of gigabytes."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from itda.errors import MismatchError

_BLOCK_BYTES, _BLOCKS = 4096, 16  # sampled from each weight file besides its header
_HEADER_BYTES = 2**20
_VALUES = 64  # sampled from each parameter
_DIGEST_BYTES = 16
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf")

# How a model is run or was written down, not what it is
_VOLATILE = frozenset(
    {
        "_attn_implementation",
        "_commit_hash",
        "_name_or_path",
        "architectures",  # written into a configuration when its model is saved
        "attn_implementation",
        "bos_token_id",  # these are for generation and batches, and set by whoever runs the model
        "dtype",
        "eos_token_id",
        "id2label",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "quantization_config",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)


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
                "Load that model, or go on all the same, where there is check_model=False (--any-model)."
            )
        if self.tokenizer != other.tokenizer:
            raise MismatchError(
                f"{what} was made with another tokenizer ({self.tokenizer[:8]}) than the one that came with "
                f"{other.id!r} ({other.tokenizer[:8]}). Use that one, or go on with check_model=False (--any-model)."
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
        """The inverse of `dataclasses.asdict`.

        Raises: TypeError or ValueError for other fields than that gives.
        """
        record = cls(**{**fields, "settings": dict(fields["settings"])})
        texts = (record.id, record.config, record.tokenizer, record.files or "", record.parameters or "")
        if not all(isinstance(text, str) for text in (*texts, *record.settings, *record.settings.values())):
            raise TypeError("the record of a model holds something else than text")
        return record


def _short(record: ModelRecord) -> str:
    return (record.files or record.parameters or "unknown")[:8]


def config_hash(config: Any) -> str:
    """Hash of a transformers configuration, less what says how the model is run.

    What all configurations have by default is left out: a release of transformers with more of that changes no model.
    """

    def lasting(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: lasting(item) for key, item in value.items() if key not in _VOLATILE}
        return [lasting(item) for item in value] if isinstance(value, list | tuple) else value

    return _hash(json.dumps(lasting(config.to_diff_dict()), sort_keys=True, default=str).encode())


def files_hash(folder: Path) -> str | None:
    """Hash over the weight files of a folder: name, size, header and sampled blocks of each."""
    weights = sorted(file for file in folder.iterdir() if file.suffix in _WEIGHT_SUFFIXES)
    if not weights:
        return None
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for file in weights:
        size = file.stat().st_size
        hasher.update(f"{file.name}:{size}".encode())
        with file.open("rb") as content:
            hasher.update(content.read(_HEADER_BYTES))
            for block in range(_BLOCKS):
                content.seek(block * max(0, size - _BLOCK_BYTES) // (_BLOCKS - 1))
                hasher.update(content.read(_BLOCK_BYTES))
    return hasher.hexdigest()


def parameters_hash(module: nn.Module) -> str | None:
    """Hash of sampled values of every parameter; None if some are not in memory.

    Values are rounded to bfloat16, so that loading in float32 or bfloat16 makes no difference; float16
    rounds otherwise, and is the same model only by its files.
    """
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for name, parameter in sorted(module.named_parameters()):
        if parameter.is_meta:
            return None
        flat = parameter.detach().reshape(-1)
        places = torch.linspace(0, len(flat) - 1, min(_VALUES, len(flat)), dtype=torch.float64).long()
        values = flat[places.to(flat.device)].bfloat16().cpu()
        hasher.update(f"{name}:{tuple(parameter.shape)}".encode() + values.view(torch.int16).numpy().tobytes())
    return hasher.hexdigest()


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of a fast tokenizer's rules and vocabulary.

    Less the padding and truncation of its last call, and less a token that is there for padding only: no text is cut
    otherwise for these, and whoever runs a model sets them.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = rules["model"].get("vocab", {})
    own = set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    own |= {getattr(tokenizer, f"{role}_token") for role in ("bos", "eos", "unk", "cls", "sep", "mask")}
    last = max((token["id"] for token in rules["added_tokens"]), default=0)

    def only_pads(token: dict[str, Any]) -> bool:
        # One that came with the tokenizer and pads no more must count as little as when it did
        added_to_pad = token["content"] == tokenizer.pad_token and token["id"] == last
        return token["content"] not in own and (added_to_pad or "pad" in token["content"].lower())

    rules["added_tokens"] = [token for token in rules["added_tokens"] if not only_pads(token)]
    return _hash(json.dumps({**rules, "padding": None, "truncation": None}, sort_keys=True).encode())


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()

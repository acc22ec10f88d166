"""Steering vectors in files: one safetensors file, with which model they belong to in its header."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from itda.adapters import gguf
from itda.data import files
from itda.errors import FormatError, OptionError, ShapeError
from itda.models.fingerprints import ModelRecord
from itda.models.loading import Model, checked_model
from itda.steer.vectors import SteeringVector

_FORMAT, _VERSION = "itda.steering_vector", 1


def save(vector: SteeringVector, path: str | Path) -> Path:
    """Write a vector, whole or not at all; the same vector gives the same bytes.

    Raises: OptionError for another ending than .safetensors; OutputError.
    """
    where = Path(path)
    if where.suffix != ".safetensors":
        raise OptionError(f"A steering vector is written as .safetensors. Got {where.name!r}.")
    facts = {
        "format": _FORMAT, "version": _VERSION, "sites": list(vector.sites), "norms": dict(vector.norms),
        "facts": files.to_plain(dict(vector.facts)), "model": asdict(vector.model) if vector.model else None,
    }  # fmt: skip
    tensors = {name: direction.float().contiguous() for name, direction in vector.directions.items()}
    # One key: the format keeps several in no order
    header = {"itda": json.dumps(facts, sort_keys=True, allow_nan=False)}
    files.write_bytes(where, to_bytes(tensors, metadata=header))
    return where


def load(path: str | Path) -> SteeringVector:
    """Read a vector.

    Raises: FormatError if the file is missing, damaged, of a newer version, or something else.
    """
    where = Path(path)
    if not where.is_file():
        raise FormatError(f"There is no file {where}. Check the path.")
    try:
        with safe_open(where, framework="pt") as opened:
            header = opened.metadata() or {}
            directions = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{where} is no safetensors file, or a damaged one: {error}.") from error
    if "itda" not in header:
        raise FormatError(f"{where} is no steering vector of itda: it does not say what it holds. Check the path.")
    with files.parsing(where):
        facts: dict[str, Any] = json.loads(header["itda"])
        if facts["format"] != _FORMAT:
            raise FormatError(f"{where} holds {facts['format']!r}, not {_FORMAT!r}. Check the path.")
        if facts["version"] > _VERSION:
            raise FormatError(f"{where} has version {facts['version']}, and this itda reads {_VERSION}. Upgrade itda.")
        if any(direction.dtype != torch.float32 for direction in directions.values()):
            raise ValueError("its directions are not float32")
        model = ModelRecord.from_dict(facts["model"]) if facts["model"] else None
        norms = {name: float(facts["norms"][name]) for name in facts["sites"]}
        directions = {name: directions[name] for name in norms}
        return SteeringVector(directions=directions, norms=norms, model=model, facts=facts["facts"])


def to_gguf(vector: SteeringVector, path: str | Path, strength: float) -> Path:
    """Write a vector as a control vector of llama.cpp, its strength with it.

    Raises: OptionError; OutputError; MissingExtraError.
    """
    directions = {}
    for name, direction in vector.directions.items():
        kind, _, layer = name.rpartition(".")
        if kind != "resid_post":
            raise OptionError(f"A control vector is added to the output of layers. Leave out {name}.")
        directions[int(layer)] = (strength * vector.norms[name] * direction).numpy()
    return gguf.write(path, vector.model.id.rpartition("/")[2] if vector.model else "unknown", directions)


def from_gguf(path: str | Path, model: Model) -> SteeringVector:
    """Read a control vector for a model. What was added at scale 1 is its length; its unit is 1.

    Raises: FormatError; ShapeError.
    """
    found = gguf.read(path)
    checked_model(model)
    directions = {f"resid_post.{layer}": torch.from_numpy(one) for layer, one in sorted(found.directions.items())}
    for name, direction in directions.items():
        width = model.site(name).width
        if len(direction) != width:
            raise ShapeError(f"{path} has directions of width {len(direction)}, and {name} is {width} wide.")
    facts = {"method": "gguf", "model_hint": found.model}
    return SteeringVector(directions=directions, norms=dict.fromkeys(directions, 1.0), model=model.record, facts=facts)

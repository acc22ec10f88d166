"""Steering vectors in files: safetensors of our own, and control vectors that llama.cpp and repeng read."""

from pathlib import Path

import torch

from itda.adapters import gguf
from itda.data import files
from itda.errors import OptionError, ShapeError
from itda.models.loading import Model, checked_model
from itda.steer import storing
from itda.steer.vectors import SteeringVector

KIND = "steering_vector"
"""How a file says what it holds."""


def save(vector: SteeringVector, path: str | Path) -> Path:
    """Write a vector, whole or not at all; the same vector gives the same bytes.

    Raises: OptionError for another ending than .safetensors; OutputError.
    """
    facts = {"sites": list(vector.sites), "norms": dict(vector.norms), "facts": dict(vector.facts)}
    return storing.write(path, KIND, vector.directions, facts, vector.model)


def load(path: str | Path) -> SteeringVector:
    """Read a vector.

    Raises: FormatError if the file is missing, damaged, of a newer version, or something else.
    """
    found = storing.read(path, KIND)
    with files.parsing(Path(path)):
        norms = {name: float(found.facts["norms"][name]) for name in found.facts["sites"]}
        directions = {name: found.tensors[name] for name in norms}
        return SteeringVector(directions=directions, norms=norms, model=found.model, facts=found.facts["facts"])


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

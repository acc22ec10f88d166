"""What steers, in one safetensors file: tensors, and in the header what they are and which model they belong to."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from itda.data import files
from itda.errors import FormatError, OptionError, OutputError
from itda.models.fingerprints import ModelRecord

_VERSION = 1


def names(found: Any) -> tuple[str, ...]:
    """Names of sites out of a file.

    Raises: ValueError for what is no list of different texts.
    """
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise ValueError("its sites are no list of names")
    if len(set(found)) < len(found):
        raise ValueError("its sites are not different")
    return tuple(found)


class Stored(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    model: ModelRecord | None


def check_place(path: str | Path, kind: str) -> Path:
    """Refuse a file that cannot be written, or that is something else (weights of a model, say).

    Raises: OptionError for another ending than .safetensors; OutputError.
    """
    where, said = Path(path), kind.replace("_", " ")
    if where.suffix != ".safetensors":
        raise OptionError(f"A {said} is written as .safetensors. Got {where.name!r}.")
    files.check_file(where)
    if where.exists() and where.stat().st_size:
        try:
            with safe_open(where, framework="pt") as opened:
                found = json.loads((opened.metadata() or {}).get("itda", "{}"))
        except (SafetensorError, OSError, ValueError):
            found = {}
        if not isinstance(found, dict) or found.get("format") != f"itda.{kind}":
            raise OutputError(f"{where} exists and is no {said} of itda. Choose another name, or remove it.")
    return where


def write(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], model: ModelRecord | None
) -> Path:
    """Write tensors and facts, whole or not at all; the same content gives the same bytes.

    Args:
        path: ends in .safetensors; one of the same kind is replaced.
        kind: what it is, as in `steering_vector`.
        tensors: written as float32.
        facts: plain values.
        model: the one that it belongs to.
    Raises: OptionError for another ending; OutputError.
    """
    where = check_place(path, kind)
    said = {"format": f"itda.{kind}", "version": _VERSION, "model": asdict(model) if model else None, **facts}
    # One key: the format keeps several in no order
    header = {"itda": json.dumps(files.to_plain(said), sort_keys=True, allow_nan=False)}
    plain = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in tensors.items()}
    files.write_bytes(where, to_bytes(plain, metadata=header))
    return where


def read(path: str | Path, kind: str) -> Stored:
    """Read what `write` wrote.

    Raises: FormatError if the file is missing, damaged, of a newer version, or something else.
    """
    where = Path(path)
    if not where.is_file():
        raise FormatError(f"There is no file {where}. Check the path.")
    try:
        with safe_open(where, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{where} is no safetensors file, or a damaged one: {error}.") from error
    if "itda" not in header:
        said = kind.replace("_", " ")
        raise FormatError(f"{where} is no {said} of itda: it does not say what it holds. Check the path.")
    with files.parsing(where):
        facts: dict[str, Any] = json.loads(header["itda"])
        if facts["format"] != f"itda.{kind}":
            raise FormatError(f"{where} holds {facts['format']!r}, not 'itda.{kind}'. Check the path.")
        if facts["version"] > _VERSION:
            raise FormatError(f"{where} has version {facts['version']}, and this itda reads {_VERSION}. Upgrade itda.")
        if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
            raise ValueError("its tensors are not float32")
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise ValueError("its tensors have numbers that are not finite")
        if not isinstance(facts.get("facts", {}), dict):
            raise ValueError("its facts are no mapping")
        return Stored(tensors, facts, ModelRecord.from_dict(facts["model"]) if facts["model"] else None)

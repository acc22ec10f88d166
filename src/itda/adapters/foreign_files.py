"""Files that other tools wrote: JSON and weights, read without running anything and refused with a sentence."""

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from itda.errors import FormatError


def json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises: FormatError if it is missing, or something else.
    """
    try:
        found = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON: {error}. Copy it again.") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds no JSON object, so it configures no autoencoder.")
    return found


def tensors(path: Path) -> dict[str, Tensor]:
    """What a safetensors file holds.

    Raises: FormatError if it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found: dict[str, Tensor] = load(_content(path))
    except SafetensorError as error:
        raise FormatError(f"{path} is not a safetensors file: {error}. Copy it again.") from error
    return found


def checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors that a PyTorch checkpoint holds; objects of any other kind are refused, not made.

    Raises: FormatError if it is missing, damaged, or holds more than tensors.
    """
    import torch

    _exists(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError, AttributeError) as error:
        raise FormatError(f"{path} is no checkpoint of weights, or a damaged one: {_first(error)}") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds no state of a module.")
    return {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}


def missing(path: Path, wanted: str, there: Iterable[str]) -> FormatError:
    """What is said of a file without the tensors that are wanted."""
    return FormatError(f"{path} has no decoder ({wanted}). It has {', '.join(sorted(there)) or 'nothing'}.")


def number(value: Any) -> int | None:
    """A whole number above zero that a configuration holds, or None; some keep numbers as text."""
    text = str(value)
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _exists(path: Path) -> None:
    if not path.parent.is_dir():
        raise FormatError(f"There is no folder {path.parent}. Check the path.")
    if not path.is_file():
        raise FormatError(f"{path.parent} has no {path.name}. Check the path.")


def _content(path: Path) -> bytes:
    _exists(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}.") from error


def _first(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]

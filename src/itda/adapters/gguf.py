"""Control vectors as llama.cpp and repeng keep them: GGUF files of the architecture `controlvector`.

`direction.k` is added to the output of the zero-based block k, `resid_post.k` here. llama.cpp has no direction for
block 0, and refuses a file with one; some tools count blocks from 1 and so mean the block before.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from itda.data.drafts import replaced_file
from itda.errors import FormatError, MissingExtraError, OptionError

ARCHITECTURE = "controlvector"


class ControlVector(NamedTuple):
    """What a file holds."""

    model: str
    """The architecture it was made for, as in `llama` or `gpt2`."""
    directions: dict[int, NDArray[np.float32]]
    """Zero-based block -> (D,), added to what comes out of it."""


def write(path: str | Path, model: str, directions: Mapping[int, NDArray[np.float32]]) -> Path:
    """Write a control vector, whole or not at all.

    Raises: OptionError for another ending, no direction, or one for block 0; OutputError; MissingExtraError.
    """
    gguf = _gguf()
    where = Path(path)
    if where.suffix != ".gguf":
        raise OptionError(f"A control vector is written as .gguf. Got {where.name!r}.")
    if not directions:
        raise OptionError("There is no direction to write.")
    if min(directions) < 1:
        raise OptionError(
            "A GGUF control vector has no direction for the output of block 0: llama.cpp adds none there. Leave out "
            "resid_post.0."
        )
    with replaced_file(where) as draft:
        writer = gguf.GGUFWriter(str(draft), ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", max(directions))
        for layer in sorted(directions):
            writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(directions[layer], dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return where


def read(path: str | Path) -> ControlVector:
    """Read a control vector that llama.cpp's tools, repeng or `write` wrote.

    Raises: FormatError for a file that is missing, damaged, or of another architecture; MissingExtraError.
    """
    gguf = _gguf()
    where = Path(path)
    if not where.is_file():
        raise FormatError(f"There is no file {where}. Check the path.")
    try:
        reader = gguf.GGUFReader(str(where))
        found = _text(reader.get_field("general.architecture"))
        if found != ARCHITECTURE:
            said = f"{where} is a GGUF file of the architecture {found!r}, not a control vector. Check the path."
            raise FormatError(said)
        directions = {
            int(tensor.name.removeprefix("direction.")): np.array(tensor.data, dtype=np.float32).reshape(-1)
            for tensor in reader.tensors if tensor.name.startswith("direction.")
        }  # fmt: skip
        model = _text(reader.get_field(f"{ARCHITECTURE}.model_hint"))
    except FormatError:
        raise
    except Exception as error:  # whatever the reader meets in a damaged file
        raise FormatError(f"{where} is no GGUF file, or a damaged one: {type(error).__name__}: {error}.") from error
    if not directions or not all(np.isfinite(direction).all() for direction in directions.values()):
        raise FormatError(f"{where} holds no direction, or one that is not finite.")
    return ControlVector(model, directions)


def _text(field: Any) -> str:
    return "" if field is None else bytes(field.parts[field.data[0]]).decode(errors="replace")


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("A GGUF control vector", "gguf") from error
    return gguf

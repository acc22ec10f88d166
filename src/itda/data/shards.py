"""The pieces of a store's entry: files of rows with their sources, and the list of those that are safely on disk.

A line of the index is written after its shard and says how far the capture was behind it, so the index
is also what a capture that was stopped goes on from. A line that was cut off by the stop is no line.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from itda.data import files
from itda.data.activations import Block
from itda.data.sources import Sources
from itda.errors import ActivationError, FormatError

INDEX = "index.jsonl"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of an entry."""

    file: str
    rows: int
    size: int
    """Bytes of the file."""
    sha256: str
    after: Mapping[str, Any]
    """How far the capture was once it had filled this shard."""

    def line(self) -> bytes:
        """Its line in the index, which ends in a check of itself."""
        facts = json.dumps(vars(self), sort_keys=True)
        return f"{facts}\t{_check(facts)}\n".encode()


def to_bytes(blocks: Sequence[Block], dtype: torch.dtype) -> bytes:
    """The content of a shard file.

    Raises: ActivationError if a value does not fit the data type.
    """
    rows = torch.cat([block.rows for block in blocks])
    kept = rows.to(dtype)
    if not bool(torch.isfinite(kept).all()):
        raise ActivationError(
            f"The activations reach {float(rows.abs().max()):.3g}, more than {dtype} can hold. "
            "Store them as bfloat16 or float32."
        )
    sources = Sources.concatenate(block.sources for block in blocks).to_tensors()
    columns = {f"sources.{name}": column for name, column in sources.items()}
    content: bytes = save({"rows": kept.contiguous(), **columns})
    return content


def append(folder: Path, place: int, content: bytes, rows: int, after: Mapping[str, Any]) -> Shard:
    """Write a shard and then its line, each flushed to disk.

    Raises: OutputError; the index is then as it was before.
    """
    name = f"{place:06d}.safetensors"
    shard = Shard(
        file=name, rows=rows, size=len(content), sha256=hashlib.sha256(content).hexdigest(), after=dict(after)
    )
    files.write_bytes(folder / name, content)
    files.append_bytes(folder / INDEX, shard.line())
    return shard


def read_index(folder: Path, *, sha256: str | None = None) -> list[Shard]:
    """The shards of an entry, in order.

    Args:
        folder: the entry.
        sha256: checksum of the index of an entry that is complete; without it a cut last line is passed over.
    Raises: FormatError that says which line is damaged.
    """
    path = folder / INDEX
    content = files.read_bytes(path) if path.exists() or sha256 else b""
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise FormatError(f"{path} is damaged: its checksum is not the one in {files.MANIFEST}. Capture again.")
    shards = []
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines):
        shard = _parse(line)
        if shard is None or shard.file != f"{number:06d}.safetensors":
            if sha256 is None and number == len(lines) - 1:
                break
            raise FormatError(f"{path} is damaged in line {number + 1}. Capture again into another folder.")
        shards.append(shard)
    return shards


def trim_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Take off what follows the lines of these shards: a line that was cut off.

    Raises: OutputError.
    """
    path = folder / INDEX
    length = sum(len(shard.line()) for shard in shards)
    if path.exists() and path.stat().st_size > length:
        files.write_bytes(path, b"".join(shard.line() for shard in shards))


def is_there(folder: Path, shard: Shard) -> bool:
    """Whether its file is there in its full length; `check` reads it."""
    path = folder / shard.file
    return path.is_file() and path.stat().st_size == shard.size


def check(folder: Path, shard: Shard) -> None:
    """Read a shard once through and compare it with the index.

    Raises: FormatError that names the file and what is wrong with it.
    """
    path = folder / shard.file
    try:
        size = path.stat().st_size
        if size == shard.size:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256:
                    return
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing. {_REMEDY}") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}.") from error
    wrong = "its checksum is not the one" if size == shard.size else f"it has {size:,} bytes, not the {shard.size:,}"
    raise FormatError(f"{path} is damaged: {wrong} in {INDEX}. {_REMEDY}")


_REMEDY = "`itda store prune --damaged` clears it away, and the same capture makes it anew."


def read(path: Path, size: int, *, first: int = 0) -> Iterator[Block]:
    """The rows of a shard from `first` on, in pieces of at most `size`, read from the mapped file.

    Raises: FormatError if it is not what a shard should be.
    """
    try:
        with files.parsing(path), safe_open(path, framework="pt") as file:
            rows = file.get_slice("rows")
            sources = Sources.from_tensors(
                {key.removeprefix("sources."): file.get_tensor(key) for key in file.keys() if key != "rows"}  # noqa: SIM118
            )
            shape = rows.get_shape()
            if len(shape) != 2 or shape[0] != len(sources):
                raise FormatError(f"{path} is damaged: rows of shape {shape}, but {len(sources)} sources.")
            for start in range(first, shape[0], size):
                end = min(start + size, shape[0])
                part: Tensor = rows[start:end]
                yield Block(part.float(), sources.select(torch.arange(start, end)))
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is not a shard of activations: {error}.") from error


def remove_others(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove shard files that no line of the index names: the stop came between the file and its line."""
    known = {shard.file for shard in shards}
    for path in folder.glob("*.safetensors"):
        if path.stem.isdigit() and path.name not in known:
            with suppress(OSError):
                path.unlink()


def _parse(line: bytes) -> Shard | None:
    try:
        facts, check_ = line.decode().removesuffix("\n").split("\t")
        if not line.endswith(b"\n") or check_ != _check(facts):
            return None
        return Shard(**json.loads(facts))
    except (ValueError, TypeError):
        return None


def _check(facts: str) -> str:
    return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()

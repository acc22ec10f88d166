"""Folders of safetensors and JSON, written whole or not at all, and checked when they are read.

A folder holds `itda.json` (what it is, format version, everything that is not an array, and the
SHA-256 of every other file) and its safetensors files. It is written under another name, flushed to
disk and renamed, so that whoever reads it finds the old one, the new one, or none.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from itda.data.drafts import flush, refused, replaced_file, replaced_folder
from itda.errors import FormatError, ItdaError, OutputError
from itda.options import as_python, flag

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    Tensors = dict[str, Tensor]

MANIFEST = "itda.json"
_OURS = (MANIFEST, "README.md")
FORMAT_VERSION = 1


def check_free(folder: Path, kind: str, *, overwrite: bool) -> None:
    """Refuse an output folder that exists, before any work is done for it.

    Only a folder of the same kind that holds nothing else is ever overwritten.

    Raises: OutputError; OptionError for an `overwrite` that is neither True nor False.
    """
    flag("overwrite", overwrite)
    if not folder.exists():
        return
    if not overwrite:
        raise OutputError(f"{folder} exists. Choose another folder, or overwrite it (overwrite=True, --overwrite).")
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.is_dir() or not (folder / MANIFEST).exists():
        raise OutputError(f"{folder} exists and was not written by itda, so it is not overwritten. Choose another one.")
    foreign = [path.name for path in folder.iterdir() if path.name not in _OURS and path.suffix != ".safetensors"]
    if foreign:
        raise OutputError(
            f"{folder} also holds {', '.join(sorted(foreign))}, so it is not overwritten. Choose another."
        )
    try:
        found = json.loads((folder / MANIFEST).read_bytes()).get("format")
    except (ValueError, AttributeError, OSError):
        return  # a damaged folder of ours may be replaced
    if found != f"itda.{kind}":
        raise OutputError(f"{folder} holds {found!r}, not 'itda.{kind}', so it is not overwritten. Choose another one.")


def check_file(path: Path) -> None:
    """Refuse an output file that cannot be written, before any work is done for it.

    Raises: OutputError.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Give the name of a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise refused(path, error) from error


def check_ours(path: Path, kind: str) -> None:
    """Refuse to replace a JSON file that does not say in its beginning that it is what will be written there.

    Raises: OutputError.
    """
    check_file(path)
    marked = f'"format": "itda.{kind}'.encode()
    if path.is_file() and path.stat().st_size and marked not in read_bytes(path)[: 2 * len(marked) + 16]:
        raise OutputError(f"{path} exists and was not written by this command. Choose another name, or remove it.")


def write_folder(
    folder: str | Path,
    kind: str,
    facts: Mapping[str, Any],
    files: Mapping[str, Tensors],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a folder whole or not at all.

    Args:
        folder: where; its parents are made.
        kind: what it is ("dictionary"), checked when it is read.
        facts: everything that is not an array, as plain JSON values.
        files: file name without suffix -> tensors.
        overwrite: replace a folder that itda wrote before.
    Returns: the folder.
    Raises: OutputError if it exists, cannot be written, or the disk is full; nothing is left behind.
    """
    folder = Path(folder)
    check_free(folder, kind, overwrite=overwrite)
    folder = folder.resolve()  # a link stays a link, to what is written
    with replaced_folder(folder) as draft:
        checksums = {}
        for name, tensors in files.items():
            checksums[f"{name}.safetensors"] = _write_tensors(draft / f"{name}.safetensors", tensors)
        manifest = {"format": f"itda.{kind}", "version": FORMAT_VERSION, "files": checksums, **facts}
        _write_bytes(draft / MANIFEST, _manifest_bytes(manifest))
    return folder


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises: OutputError if it cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, so that it survives a loss of power once this returns.

    Raises: OutputError if it cannot be written.
    """
    with replaced_file(path) as draft:
        _write_bytes(draft, content)


def append_bytes(path: Path, content: bytes) -> None:
    """Append to a file and flush it to disk; what cannot be appended whole is taken off again.

    Raises: OutputError.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not before:
            flush(path.parent)
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, before)
        raise refused(path, error) from error


def write_manifest(folder: Path, kind: str, facts: Mapping[str, Any]) -> None:
    """Write or replace the manifest of a folder whose other files come and go.

    Raises: OutputError if it cannot be written.
    """
    write_bytes(folder / MANIFEST, _manifest_bytes({"format": f"itda.{kind}", "version": FORMAT_VERSION, **facts}))


def read_folder(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensors]]:
    """Read a folder that `write_folder` wrote, checking every byte.

    Returns: its facts, and file name without suffix -> tensors.
    Raises: FormatError that names the file and what is wrong with it.
    """
    from safetensors.torch import load

    return _read_folder(Path(folder), kind, load)


def read_arrays(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, dict[str, ndarray[Any, Any]]]]:
    """The same as numpy arrays, without loading torch, which takes longer than all the rest of it.

    Raises: as `read_folder`.
    """
    from safetensors.numpy import load

    return _read_folder(Path(folder), kind, load)


def _read_folder(folder: Path, kind: str, load: Callable[[bytes], dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    manifest = read_manifest(folder, kind)
    files: dict[str, dict[str, Any]] = {}
    named = manifest.get("files")
    for name, checksum in named.items() if isinstance(named, dict) else ():
        path = folder / name
        if path.parent != folder or path.suffix != ".safetensors" or "\0" in name:
            raise FormatError(f"{folder / MANIFEST} names the file {name!r}, which is none of ours.")
        content = read_bytes(path)
        if hashlib.sha256(content).hexdigest() != checksum:
            raise FormatError(
                f"{path} is damaged: its checksum is not the one in {MANIFEST}. Make it again or copy it again."
            )
        try:
            files[path.stem] = load(content)
        except SafetensorError as error:
            raise FormatError(f"{path} is not a safetensors file: {error}.") from error
    return manifest, files


def read_manifest(folder: str | Path, kind: str) -> dict[str, Any]:
    """The facts of a folder, without its arrays.

    Raises: FormatError if it is missing, damaged, of a newer version, or of another kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FormatError(f"There is no folder {folder}. Check the path.")
    path = folder / MANIFEST
    if not path.exists():
        held = sorted(str(one.parent) for one in folder.glob(f"*/{MANIFEST}"))
        advice = f"It holds others: name one, as {held[0]}." if held else "Check the path."
        raise FormatError(f"{folder} has no {MANIFEST}, so it is no itda {kind}. {advice}")
    content = read_bytes(path)
    try:
        manifest = json.loads(content)
        found, version = manifest["format"], manifest["version"]
        expected = _manifest_bytes({key: value for key, value in manifest.items() if key != "checksum"})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{path} is damaged: it is not the JSON that was written. Make it again.") from error
    # The version comes before the checksum: a newer format may compute it in another way.
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FormatError(
            f"{path} has format version {version}; this itda reads up to {FORMAT_VERSION}. Upgrade itda to read it."
        )
    if content != expected:
        raise FormatError(
            f"{path} is damaged: its checksum is not that of its content. Make it again or copy it again."
        )
    if found != f"itda.{kind}":
        raise FormatError(f"{folder} holds {found!r}, not 'itda.{kind}'. Check the path.")
    return {key: value for key, value in manifest.items() if key not in ("format", "version", "checksum")}


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Whatever goes wrong with the parts of a file is said of the file.

    Raises: FormatError in place of what Python raises for missing, mistyped and contradicting parts.
    """
    try:
        yield
    except ItdaError:
        raise
    except (
        KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError, RecursionError,
    ) as error:  # fmt: skip
        raise FormatError(f"{path} is not what itda writes: {type(error).__name__}: {error}. Make it again.") from error


def to_plain(value: Any) -> Any:
    """The value as it comes back from JSON: tuples become lists, keys strings."""
    return json.loads(json.dumps(value, allow_nan=False, default=_number))


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return as_python(value)
    raise TypeError(f"{type(value).__name__} cannot be written")


def _manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    def dump(content: Mapping[str, Any]) -> str:
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False, default=_number)

    checksum = hashlib.sha256(dump(manifest).encode()).hexdigest()
    return (dump({**manifest, "checksum": checksum}) + "\n").encode()


def _write_bytes(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_tensors(path: Path, tensors: Tensors) -> str:
    """Write a safetensors file without a copy of it in memory; its SHA-256."""
    from safetensors.torch import save_file

    plain: Tensors = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        plain[name] = tensor.detach().cpu().contiguous()
        place = plain[name].untyped_storage().data_ptr()
        if place in memory:  # the format knows no tensors that share memory
            plain[name] = plain[name].clone()
        memory.add(place)
    try:
        save_file(plain, path)
    except SafetensorError as error:  # how it says that the disk is full
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises: FormatError if it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing. The folder was not copied whole; copy it again.") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}.") from error

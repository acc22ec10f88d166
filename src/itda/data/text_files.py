"""Texts from files: which files there are, and the documents in each."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from itda.data.token_ids import TokenReader, is_ids
from itda.errors import CorpusError, MissingExtraError, OptionError
from itda.texts import clean

SUFFIXES = (".txt", ".json", ".jsonl", ".jsonl.zst", ".parquet")
_ROWS_AT_ONCE = 1024  # of a Parquet file
_NAME_IT = "Name the one with the text (text_field=, --text-field)."


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files become documents; the fields are those of `Corpus.from_files`."""

    split_on: str | None
    text_field: str
    encoding_errors: str
    reader: Callable[[], TokenReader] | None = None
    """Makes text of documents that are token ids; called where there are any."""

    def __post_init__(self) -> None:
        if self.split_on == "":
            raise OptionError("split_on must not be empty. Leave it out for one document a file.")
        if self.encoding_errors not in ("strict", "replace"):
            raise OptionError(f"encoding_errors must be 'strict' or 'replace'. Got {self.encoding_errors!r} instead.")


def find(paths: Sequence[str | Path]) -> list[Path]:
    """The files that the paths name, folders searched in the order of names.

    Raises: CorpusError for a path that is missing or holds no file we read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file))
            if not found:
                raise CorpusError(f"The folder {path} has no file that ends in {', '.join(SUFFIXES)}.")
            files += found
        elif not path.exists():
            raise CorpusError(f"There is no file or folder {path}. Check the path of the corpus.")
        elif not _suffix(path):
            raise CorpusError(f"A corpus file must end in {', '.join(SUFFIXES)}. Got {path.name!r} instead.")
        else:
            files.append(path)
    if not files:
        raise CorpusError("A corpus needs at least one file or folder. Got none.")
    return files


def read_all(files: Iterable[Path], how: Reading) -> Iterator[str]:
    """The texts of all files, one after the other."""
    for file in files:
        yield from as_texts(documents([file], how), str(file), how.reader)


def documents(files: Iterable[Path], how: Reading) -> Iterator[Any]:
    """What all files hold, one after the other, whatever it is."""
    for file in files:
        try:
            yield from _read(file, how)
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{file} is not UTF-8 at byte {error.start}. Convert it, or read it with encoding_errors='replace' "
                "(--encoding-errors replace)."
            ) from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise CorpusError(f"{file} is not valid JSON: {error}.") from error
        except OSError as error:
            raise CorpusError(f"{file} cannot be read: {error.strerror or error}.") from error


def as_texts(documents: Iterable[Any], where: str, reader: Callable[[], TokenReader] | None) -> Iterator[str]:
    """Documents as text, whether they are that or token ids.

    Raises: CorpusError for what is neither, or for ids without a tokenizer.
    """
    tokens: TokenReader | None = None
    for number, document in enumerate(documents):
        place = f"document {number} of {where}"
        if not is_ids(document):
            yield clean(document, place)
            continue
        if reader is None:
            raise CorpusError(
                f"A document must be a string. Got {type(document).__name__} in {place}; if these are token ids, give "
                "the tokenizer they were made with: tokenizer=model.tokenizer."
            )
        tokens = tokens or reader()
        yield from (clean(text, place) for text in tokens.texts(document, place))
    if tokens is not None:
        tokens.tell()


def _suffix(file: Path) -> str | None:
    return next((suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix)), None)


def _read(file: Path, how: Reading) -> Iterator[str]:
    suffix = _suffix(file)
    if suffix == ".txt":
        text = file.read_text(encoding="utf-8-sig", errors=how.encoding_errors)
        yield from text.split(how.split_on) if how.split_on else [text]
    elif suffix == ".json":
        content = json.loads(file.read_text(encoding="utf-8-sig", errors=how.encoding_errors))
        if not isinstance(content, list):
            raise CorpusError(f"{file} must hold a list of texts. Got {type(content).__name__} instead.")
        yield from (_field(item, how.text_field, file) for item in content)
    elif suffix == ".parquet":
        yield from _parquet(file, how)
    else:
        lines = _compressed_lines(file, how) if file.name.lower().endswith(".zst") else _lines(file, how)
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _field(_parsed(line, number, file), how.text_field, file)


def _parsed(line: str, number: int, file: Path) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"Line {number} of {file} is not valid JSON: {error.msg} at character {error.pos}."
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise CorpusError(f"Line {number} of {file} cannot be read: {error}.") from error


def _lines(file: Path, how: Reading) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", errors=how.encoding_errors) as lines:
        yield from lines


def _compressed_lines(file: Path, how: Reading) -> Iterator[str]:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError(f"Reading {file.name}", "data") from error
    try:
        with file.open("rb") as raw:
            content = io.BufferedReader(_Frames(raw, zstandard.ZstdDecompressor().decompressobj))
            yield from io.TextIOWrapper(content, "utf-8-sig", how.encoding_errors)
    except zstandard.ZstdError as error:
        raise CorpusError(f"{file} is damaged: {error}. Compress it again.") from error


_PIECE = 2**10  # a file of one character fills 32 MiB with so many bytes, and all at once


class _Frames(io.RawIOBase):
    """What is compressed in a file, one frame after the other. zstandard's own reader takes the first alone, and the
    end of a file that was cut for that of a frame."""

    def __init__(self, file: BinaryIO, begin: Callable[[], Any]) -> None:
        self._file, self._begin = file, begin
        self._frame: Any = None
        self._compressed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`.

        Raises: CorpusError if the file ends within a frame.
        """
        while not self._ready:
            compressed = self._compressed or self._file.read(_PIECE)
            if not compressed:
                if self._frame is None:
                    return 0
                raise CorpusError(f"{self._file.name} ends too early: it was cut. Get the whole file.")
            self._frame = self._frame or self._begin()
            self._ready, self._compressed = memoryview(self._frame.decompress(compressed)), b""
            if self._frame.eof:
                self._compressed, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def _parquet(file: Path, how: Reading) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(f"Reading {file.name}", "data") from error
    try:
        with parquet.ParquetFile(file) as table:
            columns = table.schema_arrow.names
            if how.text_field not in columns:
                raise CorpusError(
                    f"{file} has no column {how.text_field!r}; it has {', '.join(map(repr, sorted(columns)))}. "
                    + _NAME_IT
                )
            for block in table.iter_batches(_ROWS_AT_ONCE, columns=[how.text_field]):
                yield from block.column(0).to_pylist()
    except pyarrow.ArrowException as error:
        raise CorpusError(f"{file} is no Parquet file, or a damaged one: {error}.") from error


def _field(item: Any, text_field: str, file: Path) -> Any:
    if not isinstance(item, dict):
        return item
    if text_field not in item:
        names = ", ".join(map(repr, sorted(item))) or "no fields"
        chats = " Conversations are read with Corpus.from_chats (--role)." if "messages" in item else ""
        raise CorpusError(f"A document of {file} has no field {text_field!r}; it has {names}. {_NAME_IT}{chats}")
    return item[text_field]


def open_dataset(dataset: Any, *, split: str, config: str | None) -> tuple[Iterable[Any], str]:
    """A Hugging Face dataset that is named, or was opened, and what it is called.

    Raises: MissingExtraError without the extra `data`; CorpusError if it cannot be loaded, or is none.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("Reading a Hugging Face dataset", "data") from error
    if isinstance(dataset, str):
        try:
            return datasets.load_dataset(dataset, config, split=split, streaming=True), dataset
        except Exception as error:
            raise CorpusError(f"The dataset {dataset!r} cannot be loaded: {error}") from error
    if isinstance(dataset, dict):
        if split not in dataset:
            raise CorpusError(f"There is no split {split!r} here; there are {', '.join(map(str, dataset))}.")
        dataset = dataset[split]
    if not isinstance(dataset, Iterable):
        raise CorpusError(f"from_dataset takes a dataset, or its name. Got {type(dataset).__name__} instead.")
    return dataset, "dataset"


def column(rows: Iterable[Any], name: str, where: str) -> Iterator[Any]:
    """What rows of a dataset have in one column.

    Raises: CorpusError without it.
    """
    for row in rows:
        if not isinstance(row, Mapping):
            raise CorpusError(f"The rows of {where!r} must have columns. Got {type(row).__name__} instead.")
        if name not in row:
            raise CorpusError(
                f"The dataset {where!r} has no column {name!r}; its columns are {', '.join(sorted(row))}. Name one of "
                "them with text_field=."
            )
        yield row[name]

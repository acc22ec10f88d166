"""Where activations come from: for each row its document, characters, token and readable context.

A source names a token by text, not by index: (document id, character end) is the same in every
model, whatever its tokenizer. Rows share the windows of text that the model read, so the context of
a row costs nothing extra and shows exactly what the model saw.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from itda.errors import FormatError, OptionError, ShapeError
from itda.shown import printable

_ID_BYTES = 16
_COLUMNS = ("row", "window", "char_start", "char_end", "token_id", "token_index")
_NO_TOKEN = -1  # id of a row that is no token
_CONTEXT_BEFORE, _CONTEXT_AFTER = 120, 40  # characters of `Source.text` around the token


def item_id(name: str) -> str:
    """32 hexadecimal digits that name an item, as a text's hash names a document."""
    return hashlib.blake2b(name.encode(), digest_size=_ID_BYTES).hexdigest()


class Window(NamedTuple):
    """One stretch of a document that the model read at once."""

    document: str
    """Id of the document."""
    start: int
    """Where it begins in the document, in characters."""
    text: str


@dataclass(frozen=True)
class Source:
    """Where one activation comes from."""

    row: int
    """Which row of what was decomposed; the only name that a bare array gives."""
    document: str | None = None
    """Id of the document: the hash of its text."""
    char_start: int | None = None
    char_end: int | None = None
    """The token's characters in the document; equal for a token that stands for no text."""
    token: str | None = None
    """The token's text."""
    token_id: int | None = None
    token_index: int | None = None
    """Its place among the document's tokens, special ones not counted; -1 for a special one."""
    window_start: int | None = None
    """Character at which the model's window began: it decides what context the token had."""
    before: str = ""
    """Text of the window before the token."""
    after: str = ""
    """Text of the window after it; a causal model had not seen it yet."""

    @property
    def text(self) -> str:
        """The token in its context, marked, as in `Once upon a [time]`; readable on one line."""
        return self.shortened(_CONTEXT_BEFORE, _CONTEXT_AFTER)

    def shortened(self, before: int, after: int) -> str:
        """The same with so many characters around the token."""
        if self.document is None:
            return f"row {self.row}"
        if not self.token and self.char_start == self.char_end and self.token_id == _NO_TOKEN:
            return printable(self.before)  # an item of a table, as a whole
        return "{}[{}]{}".format(*self.quoted(before, after))

    def quoted(self, before: int = _CONTEXT_BEFORE, after: int = _CONTEXT_AFTER) -> tuple[str, str, str]:
        """So many characters before the token, the token, and after it, fit to be printed on one line."""
        lead = "…" if before < len(self.before) or self.window_start else ""
        tail = "…" if after < len(self.after) else ""
        shown = self.before[max(0, len(self.before) - before) :]
        return lead + printable(shown), printable(self.token or ""), printable(self.after[:after]) + tail

    def rank(self, text: str | None, token: str | None) -> int | None:
        """How well it answers who looks for a text, or for a token; lower is better, None where it does not."""
        own = (self.token or "").strip()
        if token is not None:
            return 0 if own == token.strip() else None
        wanted = (text or "").strip().lower()
        if own.lower() == wanted:
            return 0
        if wanted in own.lower():
            return 1
        return 2 if wanted in self.text.lower() else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names = ("row", "document", "char_start", "char_end", "token", "token_id", "token_index", "window_start")
        return {name: getattr(self, name) for name in names} | {"text": self.text}


@dataclass(frozen=True, eq=False)
class Sources:
    """The sources of N rows, as columns over the windows they share. Index it for a `Source`."""

    row: Tensor
    """int64 (N,)."""
    window: Tensor
    """int64 (N,), index into `windows`, or -1 for a row of a bare array."""
    char_start: Tensor
    char_end: Tensor
    token_id: Tensor
    token_index: Tensor
    windows: tuple[Window, ...]
    token_names: dict[int, str]
    """Names of the tokens that stand for no text, such as `<s>`."""

    def __len__(self) -> int:
        return len(self.row)

    def __repr__(self) -> str:
        if not self.named:
            return f"Sources({len(self):,} rows of a bare array)"
        return f"Sources({len(self):,} rows of {len({window.document for window in self.windows}):,} documents)"

    def __getitem__(self, index: int) -> Source:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} sources. Got the index {index}.")
        row, place = int(self.row[index]), int(self.window[index])
        if place < 0:
            return Source(row)
        window = self.windows[place]
        start, end, token_id = (int(column[index]) for column in (self.char_start, self.char_end, self.token_id))
        token = window.text[start - window.start : end - window.start]
        return Source(
            row=row,
            document=window.document,
            char_start=start,
            char_end=end,
            token=token or self.token_names.get(token_id, ""),
            token_id=token_id,
            token_index=int(self.token_index[index]),
            window_start=window.start,
            before=window.text[: start - window.start],
            after=window.text[end - window.start :],
        )

    def __iter__(self) -> Iterator[Source]:
        return (self[index] for index in range(len(self)))

    @property
    def named(self) -> bool:
        """Whether the rows come from text; a bare array has only row numbers."""
        return len(self) > 0 and bool((self.window >= 0).all())

    def keys(self) -> list[tuple[str, int]]:
        """(document id, character end) of each row: its name across models.

        Raises: ShapeError for the rows of a bare array, which have no name.
        """
        if not self.named:
            raise ShapeError("Rows of a bare array have no text, so they cannot be matched across models.")
        return [(self.windows[w].document, int(end)) for w, end in zip(self.window, self.char_end, strict=True)]

    @property
    def document_numbers(self) -> Tensor:
        """int64 (N,): the number of the document of each row, from 0 in the order in which they come."""
        numbers: dict[str, int] = {}
        of_window = {
            window: numbers.setdefault(self.windows[window].document, len(numbers))
            for window in dict.fromkeys(self.window.tolist())
        }
        return torch.tensor([of_window[window] for window in self.window.tolist()], dtype=torch.int64)

    def select(self, rows: Tensor) -> Self:
        """The sources of some rows, by index, with only the windows that these need."""
        window = self.window[rows]
        needed, place = torch.unique(window[window >= 0], return_inverse=True)
        compact = torch.full_like(window, -1)
        compact[window >= 0] = place
        return replace(
            self,
            row=self.row[rows],
            window=compact,
            char_start=self.char_start[rows],
            char_end=self.char_end[rows],
            token_id=self.token_id[rows],
            token_index=self.token_index[rows],
            windows=tuple(self.windows[index] for index in needed.tolist()),
        )

    def without_texts(self) -> Self:
        """The same with the tokens' own names as all the text there is."""
        named = (self[index] for index in range(len(self)))
        tokens = {source.token_id: source.token for source in named if source.token_id is not None and source.token}
        windows = tuple(window._replace(text="") for window in self.windows)
        return replace(self, windows=windows, token_names=self.token_names | tokens)

    @classmethod
    def of_rows(cls, count: int, *, first: int = 0) -> "Sources":
        """The sources of a bare array: row numbers and nothing else."""
        nothing = torch.full((count,), -1, dtype=torch.int64)
        return cls(torch.arange(first, first + count), nothing, nothing, nothing, nothing, nothing, (), {})

    @classmethod
    def of_items(
        cls, items: Sequence[str], positions: Sequence[int] | None = None, labels: Sequence[str] | None = None
    ) -> "Sources":
        """The sources of rows that are no tokens: patches of images, moments of recordings, embeddings of anything.

        Args:
            items: the name of what each of N rows comes from, as `cat.png`.
            positions: its place there; by default rows of an item are counted.
            labels: what is read for it, as `patch 3, 4`; without them a source is its item.
        Raises: ShapeError if they are not as many; or if two rows have one item and position.
        """
        names = list(items)
        counted: Counter[str] = Counter()
        places = []
        for name in names:
            if not isinstance(name, str):
                raise ShapeError(f"An item is named by a text. Got {type(name).__name__}.")
            places.append(counted[name])
            counted[name] += 1
        if positions is not None:
            places = [int(position) for position in positions]
        if len(places) != len(names) or (labels is not None and len(labels) != len(names)):
            raise ShapeError(f"A table of sources needs one entry a row in every column. Got {len(names)} items.")
        if len(set(zip(names, places, strict=True))) < len(names) or min(places, default=0) < 0:
            raise ShapeError("Two rows have the same item and position, or a position is below 0: they have no name.")
        number = {name: index for index, name in enumerate(counted)}
        kinds = {label: index for index, label in enumerate(dict.fromkeys(map(str, labels or ())))}
        # Behind its name, so that item and position are the name of a row across models
        ends = torch.tensor([len(name) + place for name, place in zip(names, places, strict=True)], dtype=torch.int64)
        ids = [kinds[str(label)] for label in labels] if labels is not None else [_NO_TOKEN] * len(names)
        return cls(
            row=torch.arange(len(names)),
            window=torch.tensor([number[name] for name in names], dtype=torch.int64),
            char_start=ends,
            char_end=ends.clone(),
            token_id=torch.tensor(ids, dtype=torch.int64),
            token_index=torch.tensor(places, dtype=torch.int64),
            windows=tuple(Window(item_id(name), 0, name) for name in number),
            token_names={index: label for label, index in kinds.items()},
        )

    @classmethod
    def of_table(cls, table: Any) -> "Sources":
        """The sources that a user gives: a list of names, or a table with the columns item, position and label.

        Raises: OptionError for other columns; ShapeError as `of_items`.
        """
        if isinstance(table, Sources):
            return table
        if not hasattr(table, "keys"):  # a list of names
            return cls.of_items(table)
        there = list(table.keys())  # a table of pandas has keys, and is no dict
        unknown = sorted(set(there) - {"item", "position", "label"})
        if unknown or "item" not in there:
            what = f"Got {unknown[0]!r}" if unknown else "It has no items"
            raise OptionError(f"A table of sources has the columns item, position and label. {what}.")
        columns = [list(table[name]) if name in there else None for name in ("item", "position", "label")]
        return cls.of_items(columns[0] or [], columns[1], columns[2])

    @classmethod
    def concatenate(cls, parts: Iterable["Sources"]) -> "Sources":
        """All parts one after the other; a window that several share is kept once."""
        parts = list(parts)
        place_of: dict[Window, int] = {}
        names: dict[int, str] = {}
        windows = []
        for part in parts:
            places = [place_of.setdefault(window, len(place_of)) for window in part.windows]
            lookup = torch.tensor([*places, -1], dtype=torch.int64)  # index -1 stays -1
            windows.append(lookup[part.window])
            names |= part.token_names
        empty = torch.empty(0, dtype=torch.int64)

        def joined(column: str) -> Tensor:
            return torch.cat([empty, *(getattr(part, column) for part in parts)])

        return cls(
            joined("row"),
            torch.cat([empty, *windows]),
            joined("char_start"),
            joined("char_end"),
            joined("token_id"),
            joined("token_index"),
            tuple(place_of),
            names,
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """Columns and windows as tensors, for safetensors files."""
        texts = [window.text.encode() for window in self.windows]
        names = sorted(self.token_names.items())
        name_texts = [name.encode() for _, name in names]
        ids = b"".join(bytes.fromhex(window.document) for window in self.windows)
        return {
            "row": self.row,
            "window": self.window,
            "char_start": self.char_start,
            "char_end": self.char_end,
            "token_id": self.token_id,
            "token_index": self.token_index,
            "window_document": _bytes_tensor(ids).reshape(-1, _ID_BYTES),
            "window_start": torch.tensor([window.start for window in self.windows], dtype=torch.int64),
            "window_text": _bytes_tensor(b"".join(texts)),
            "window_text_length": torch.tensor([len(text) for text in texts], dtype=torch.int64),
            "token_name_id": torch.tensor([token_id for token_id, _ in names], dtype=torch.int64),
            "token_name": _bytes_tensor(b"".join(name_texts)),
            "token_name_length": torch.tensor([len(text) for text in name_texts], dtype=torch.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Sources":
        """The inverse of `to_tensors`.

        Raises: FormatError if the columns do not fit together.
        """
        try:
            texts = _cut(tensors["window_text"], tensors["window_text_length"])
            ids = [bytes(row.tolist()).hex() for row in tensors["window_document"]]
            windows = tuple(map(Window, ids, tensors["window_start"].tolist(), texts))
            names = _cut(tensors["token_name"], tensors["token_name_length"])
            columns = {name: tensors[name] for name in _COLUMNS}
            token_names = dict(zip(tensors["token_name_id"].tolist(), names, strict=True))
        except (KeyError, ValueError, UnicodeDecodeError) as error:
            raise FormatError(f"The sources in this file are damaged: {error}.") from error
        place = columns["window"]
        if any(column.shape != place.shape for column in columns.values()) or (
            len(place) and not -1 <= int(place.min()) <= int(place.max()) < len(windows)
        ):
            raise FormatError("The sources in this file are damaged: their columns do not fit together.")
        return cls(**columns, windows=windows, token_names=token_names)


def _bytes_tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def _cut(content: Tensor, lengths: Tensor) -> list[str]:
    whole = content.numpy().tobytes()
    ends = np.cumsum(lengths.numpy())
    if len(ends) and (int(ends[-1]) != len(whole) or int(lengths.min()) < 0):
        raise ValueError("text lengths do not add up")
    return [whole[end - length : end].decode() for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]

"""Documents, their ids, and the fingerprint of a corpus."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from itda.data import text_files
from itda.data.chats import Turn, rendered
from itda.data.embedded import embedded_documents
from itda.data.token_ids import TokenReader
from itda.errors import CorpusError
from itda.options import seed_number, share, whole
from itda.texts import clean

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_ID_BYTES = 16


def document_id(text: str) -> str:
    """32 hexadecimal digits that name a text in every corpus."""
    return hashlib.blake2b(text.encode(), digest_size=_ID_BYTES).hexdigest()


class Document(NamedTuple):
    """One text and the hash of its content."""

    id: str
    """32 hexadecimal digits: the same text has the same id in every corpus."""
    text: str


@dataclass(frozen=True)
class CorpusSummary:
    """What one reading of a corpus found."""

    documents: int
    """Documents that are used: neither empty nor seen before."""
    characters: int
    duplicates: int
    """Documents left out because the same text came earlier."""
    empty: int
    """Documents left out because they hold nothing but white space."""
    fingerprint: str
    """Hash of the ids of the used documents, in order."""

    def __str__(self) -> str:
        left_out = [
            f"{count:,} {what}" for count, what in ((self.duplicates, "repeated"), (self.empty, "empty")) if count
        ]
        tail = f" ({' and '.join(left_out)} left out)" if left_out else ""
        return f"{self.documents:,} documents, {self.characters:,} characters{tail}"


@dataclass(frozen=True)
class Part:
    """Which of the equal parts of a larger corpus this is."""

    number: int
    """From 0."""
    count: int
    corpus: str
    """Fingerprint of the whole."""
    name: str
    """Of the whole."""
    tokens: int | None = None
    """Rows that are wanted of the whole; None for all."""

    def __post_init__(self) -> None:
        numbers = (self.number, self.count, 0 if self.tokens is None else self.tokens)
        if not all(type(number) is int for number in numbers) or not 0 <= self.number < self.count:
            raise ValueError(f"part {self.number!r} of {self.count!r}")
        if not isinstance(self.corpus, str) or not isinstance(self.name, str):
            raise TypeError("the corpus of a part needs a name and a fingerprint")


class Corpus:
    """An ordered collection of documents that can be read again and again.

    Texts are read when they are needed, so a corpus may be larger than memory; only the ids are
    kept. Repeated and empty documents are left out, counted and said.

        corpus = Corpus.from_files("stories.json")
        train, held_out = corpus.split(held_out=0.1, seed=0)
    """

    def __init__(
        self,
        read: Callable[[], Iterable[str]],
        name: str,
        *,
        chosen: Collection[str] | None = None,
        part: Part | None = None,
        turns: Mapping[str, tuple[Turn, ...]] | None = None,
    ) -> None:
        """Prefer the `from_` methods; `read` must give the same texts each time it is called."""
        self._read = read
        self.name = name
        self.part = part
        """What it is of a larger corpus that was cut by `parts`."""
        self.turns = turns
        """Of conversations: who says which characters, by document id."""
        self._chosen = None if chosen is None else frozenset(chosen)

    def __iter__(self) -> Iterator[Document]:
        return self._documents(Counter())

    def _documents(self, left_out: Counter[str]) -> Iterator[Document]:
        """The used documents; counts the others by reason on the way."""
        seen: set[bytes] = set()
        for text in self._read():
            digest = bytes.fromhex(document_id(text))
            if not text.strip():
                left_out["empty"] += 1
            elif digest in seen:
                left_out["repeated"] += 1
            else:
                seen.add(digest)
                if self._chosen is None or digest.hex() in self._chosen:
                    yield Document(digest.hex(), text)

    def __len__(self) -> int:
        return self.summary.documents

    def __repr__(self) -> str:
        return f"Corpus({self.name}: {self.summary})"

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the used documents, in order; reads the corpus once."""
        return [document.id for document in self]

    @cached_property
    def summary(self) -> CorpusSummary:
        """Counts and fingerprint; reads the corpus once.

        Raises: CorpusError if nothing is left.
        """
        left_out: Counter[str] = Counter()
        characters = documents = 0
        hasher = hashlib.blake2b(digest_size=_ID_BYTES)
        for document in self._documents(left_out):
            documents += 1
            characters += len(document.text)
            hasher.update(bytes.fromhex(document.id))
        if not documents:
            raise CorpusError(
                f"The corpus {self.name} has no document with text in it ({left_out['empty']} empty). "
                "Give at least one text that is not blank."
            )
        if self._chosen is not None:  # what the whole corpus left out is not this part's to report
            left_out.clear()
        return CorpusSummary(documents, characters, left_out["repeated"], left_out["empty"], hasher.hexdigest())

    @property
    def fingerprint(self) -> str:
        """Hash of the ids of the used documents, in order."""
        return self.summary.fingerprint

    def split(self, *, held_out: float = 0.1, seed: int = 0) -> tuple["Corpus", "Corpus"]:
        """Two corpora that share no document: the rest, and a share `held_out` of the documents.

        Which documents are held out depends on the seed and on their text only, not on their order.

        Raises: OptionError for a share outside (0, 1); CorpusError if a part would be empty.
        """
        held_out = share("held_out", held_out)
        seed = seed_number(seed)
        ids = self.ids
        if len(ids) < 2:
            raise CorpusError(
                f"The corpus {self.name} has {len(ids)} document(s), so none can be held out. "
                "Split it into more documents (split_on='\\n\\n', --split-on '\\n\\n', for a text of paragraphs), "
                "or hold none out (--held-out 0)."
            )
        ranked = sorted(ids, key=lambda id_: hashlib.blake2b(f"{seed}:{id_}".encode(), digest_size=8).digest())
        count = min(len(ids) - 1, max(1, round(held_out * len(ids))))
        return (
            self._part(ranked[count:], f"{self.name} less {held_out:g} held out"),
            self._part(ranked[:count], f"{held_out:g} held out of {self.name}"),
        )

    @property
    def is_part(self) -> bool:
        """Whether it is certain documents of another corpus."""
        return self._chosen is not None

    def without(self, ids: Collection[str]) -> "Corpus":
        """The corpus less the documents with these ids.

        Raises: CorpusError for what is not several ids.
        """
        if isinstance(ids, str) or not isinstance(ids, Iterable):
            raise CorpusError(f"without takes ids of documents, as a list or set. Got {type(ids).__name__} instead.")
        return self._part(set(self.ids) - set(ids), self.name)

    def parts(self, count: int, *, tokens: int | None = None) -> tuple["Corpus", ...]:
        """The corpus cut into `count` corpora of the same size to within one document, which share none.

        Which part a document is in depends on the texts only, not on their order. `tokens` is what is wanted of all
        of them together, for whoever finds the parts again.

        Raises: OptionError; CorpusError if there are fewer documents than parts.
        """
        count = whole("parts", count)
        if tokens is not None:
            tokens = whole("tokens", tokens, least=count)
        ids = sorted(self.ids)  # hashes: their order has nothing to do with that of the texts
        if len(ids) < count:
            raise CorpusError(
                f"The corpus {self.name} has {len(ids):,} documents, too few for {count:,} parts. Ask for fewer parts, "
                "or split it into more documents (split_on='\\n\\n' for one text file of paragraphs)."
            )
        return tuple(
            Corpus(
                self._read,
                f"{self.name}, part {number + 1} of {count}",
                chosen=ids[number::count],
                part=Part(number, count, self.fingerprint, self.name, tokens),
                turns=self.turns,
            )
            for number in range(count)
        )

    def _part(self, ids: Collection[str], name: str) -> "Corpus":
        return Corpus(self._read, name, chosen=ids, turns=self.turns)

    @classmethod
    def from_texts(cls, texts: Iterable[Any], *, name: str = "texts", tokenizer: Any = None) -> "Corpus":
        """A corpus of strings, one document each; or of sequences of token ids.

        Args:
            texts: the strings, or sequences of ids; a matrix of ids is its rows.
            name: what it is called in reports.
            tokenizer: what token ids were made with; a sequence is cut into documents where a special token stands.
        Raises: CorpusError if something in it is neither, or is ids without their tokenizer.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise CorpusError(f"from_texts takes a list of strings. Got {type(texts).__name__}; put it into a list.")
        kept = list(text_files.as_texts(texts, name, _reader(tokenizer)))
        return cls(lambda: kept, name)

    @classmethod
    def from_files(
        cls,
        paths: str | Path | Iterable[str | Path],
        *,
        split_on: str | None = None,
        text_field: str = "text",
        encoding_errors: str = "strict",
        tokenizer: Any = None,
    ) -> "Corpus":
        """A corpus of files or folders, read when needed.

        Args:
            paths: `.txt` (one document a file), `.json` (a list of strings or of objects), `.jsonl`
                (one of these a line; `.jsonl.zst` with the extra `data`), `.parquet` (with the extra `data`), or
                folders of such files.
            split_on: cut each text file into documents at this string.
            text_field: where objects keep their text, or their token ids; the column of a table.
            encoding_errors: `strict`, or `replace` for files that are not all UTF-8.
            tokenizer: where documents are token ids, what made them; see `from_texts`.
        Raises: CorpusError for a path that does not exist or has none of these files.
        """
        if not isinstance(paths, str | Path | Iterable):
            raise CorpusError(f"from_files takes a path or a list of paths. Got {type(paths).__name__} instead.")
        listed = [paths] if isinstance(paths, str | Path) else list(paths)
        files = text_files.find(listed)
        name = ", ".join(Path(path).name for path in listed[:3]) + (" ..." if len(listed) > 3 else "")
        how = text_files.Reading(
            split_on=split_on, text_field=text_field, encoding_errors=encoding_errors, reader=_reader(tokenizer)
        )
        return cls(lambda: text_files.read_all(files, how), name)

    @classmethod
    def from_dataset(
        cls,
        dataset: "str | Dataset | IterableDataset",
        *,
        split: str = "train",
        text_field: str = "text",
        config: str | None = None,
        limit: int | None = None,
        tokenizer: Any = None,
    ) -> "Corpus":
        """A corpus from a Hugging Face dataset; one that is named is streamed, not downloaded.

        Args:
            dataset: a name on the hub, a local folder, or a dataset object (streaming or not; or several, by split).
            split, config: which part of a named dataset; `split` of one with several, too.
            text_field: the column of the text, or of token ids.
            limit: read only the first rows. A corpus is read from end to end before it is used, to know its documents:
                of a dataset that is streamed and large, take a part.
            tokenizer: where documents are token ids, what made them; see `from_texts`.
        Raises: MissingExtraError without the extra `data`; CorpusError without the column, or if it cannot be read.
        """
        loaded, name = text_files.open_dataset(dataset, split=split, config=config)
        if not isinstance(text_field, str):
            raise CorpusError(f"text_field is the name of a column. Got {text_field!r} instead.")
        rows: Any = loaded
        if limit is not None:
            limit = whole("limit", limit)
            rows = loaded.take(limit) if hasattr(loaded, "take") else list(islice(loaded, limit))

        def read() -> Iterator[str]:
            try:
                yield from text_files.as_texts(text_files.column(rows, text_field, name), name, _reader(tokenizer))
            except (OSError, ValueError, RuntimeError) as error:  # whatever a source that is streamed leads to
                if isinstance(error, CorpusError):
                    raise
                raise CorpusError(f"The dataset {name!r} cannot be read on: {error}") from error

        return cls(read, name)

    @classmethod
    def from_chats(
        cls,
        chats: "str | Path | Iterable[Any]",
        tokenizer: Any,
        *,
        messages_field: str = "messages",
        name: str | None = None,
    ) -> "Corpus":
        """A corpus of conversations, as the tokenizer's chat template writes them.

        Which role a token belongs to is kept: `roles=("assistant",)` of a capture or build takes its tokens only.

        Args:
            chats: a file or folder as for `from_files`, or conversations: lists of objects with `role` and `content`.
            tokenizer: with a chat template: `model.tokenizer`.
            messages_field: where objects of a file, or rows, keep their conversation.
            name: what it is called in reports.
        Raises: CorpusError for what is no conversation, or a template that does not write messages as they are.
        """
        if isinstance(chats, str | Path):
            how = text_files.Reading(split_on=None, text_field=messages_field, encoding_errors="strict")
            found: Iterable[Any] = text_files.documents(text_files.find([chats]), how)
            name = name or Path(chats).name
        else:
            found = (
                chat[messages_field] if isinstance(chat, dict) and messages_field in chat else chat for chat in chats
            )
        texts, turns = [], {}
        for number, messages in enumerate(found):
            text, said = rendered(messages, tokenizer, f"conversation {number} of {name or 'chats'}")
            texts.append(clean(text, "a conversation"))
            turns[document_id(texts[-1])] = said
        return cls(lambda: texts, name or "chats", turns=turns)

    @classmethod
    def embedded(cls) -> "Corpus":
        """Text that every Python installation carries: its language reference and docstrings."""
        return cls(_embedded_texts, "embedded")


def _reader(tokenizer: Any) -> Callable[[], TokenReader] | None:
    """What makes text of token ids; `tokenizer` may be a function that gives it."""
    if tokenizer is None:
        return None
    return lambda: TokenReader(tokenizer if hasattr(tokenizer, "all_special_ids") else tokenizer())


def checked_corpus(corpus: Any) -> Corpus:
    """The corpus itself.

    Raises: CorpusError if it is something else.
    """
    if not isinstance(corpus, Corpus):
        raise CorpusError(f"This needs an itda.Corpus. Got {type(corpus).__name__}; try Corpus.from_texts.")
    return corpus


@cache
def _embedded_texts() -> list[str]:
    """Kept once read: three seconds of parsing for two megabytes."""
    return [clean(text, "embedded") for text in embedded_documents()]

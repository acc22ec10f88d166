"""Corpus + model -> activations of some sites, each with its source.

Two readings of the corpus: one counts tokens and decides how many rows each document gives, one
runs the model. Memory is bounded by one batch of windows and, per document, one number.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itda import progress as progress_bars
from itda.data.activations import Activations
from itda.data.corpus import Corpus, Document
from itda.data.provenance import Provenance
from itda.data.sources import Sources, Window
from itda.errors import CorpusError, ModelError, OptionError
from itda.models import tokenizing
from itda.models.hooks import read
from itda.models.loading import Model
from itda.models.sites import Site
from itda.models.tokenizing import CANONICAL_BATCH, TokenWindow
from itda.options import checked, one_of, whole
from itda.shapes import finite

_TEXTS_AT_ONCE = 64  # handed to the tokenizer together
_CALIBRATION_WINDOWS = 4 * CANONICAL_BATCH  # windows whose norms say what is usual at a site
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """How activations are taken from a model."""

    tokens: int | None = None
    """Rows wanted, after padding and dropped tokens, spread evenly over the documents; None for all."""
    window: int | None = None
    """Tokens the model reads at once; by default its positions, at most 128."""
    bos: bool | None = None
    """Begin every window with the begin token (True), never (False), or as the tokenizer does (None)."""
    special_tokens: Literal["drop", "keep"] = "drop"
    """Rows at tokens that stand for no text. They are the same everywhere, or a sink."""
    sinks: Literal["drop", "keep"] = "drop"
    """Rows whose norm is far above the median: attention sinks, 100 to 1000 times the rest in many models."""
    sink_ratio: float = 10.0
    """How many times the median norm of the site makes a sink."""
    batch_size: int = 32
    """Windows in one forward pass where `canonical` is off; it makes no difference otherwise."""
    canonical: bool = True
    """Run forward passes of one fixed shape, so that the same text gives the same bits whatever the batch size."""
    padding_side: Literal["right", "left"] = "right"
    seed: int = 0
    """Which windows and tokens are taken when not all are wanted."""

    def __post_init__(self) -> None:
        for name in ("tokens", "window", "batch_size"):
            if getattr(self, name) is not None or name == "batch_size":
                whole(name, getattr(self, name))
        for name in ("special_tokens", "sinks"):
            one_of(name, getattr(self, name), ("drop", "keep"))
        one_of("padding_side", self.padding_side, ("right", "left"))
        if not self.sink_ratio > 1:
            raise OptionError(f"sink_ratio must be above 1, the median norm. Got {self.sink_ratio!r} instead.")


class Block(NamedTuple):
    """Rows of one site from one forward pass."""

    rows: Tensor
    """float32 (n, D), on the CPU."""
    sources: Sources


class Piece(NamedTuple):
    """One window of a document and which of its tokens are wanted."""

    document: Document
    window: TokenWindow
    order: NDArray[np.int64]
    """Tokens that may be taken, the preferred ones first."""
    wanted: int


class Capture:
    """One pass of a model over a corpus, as blocks of rows for each site.

    Iterate once; `total`, `counts` and `provenance` say what it will give and what it gave.
    """

    def __init__(self, model: Model, corpus: Corpus, sites: Sequence[str], options: CaptureOptions) -> None:
        if not isinstance(model, Model):
            raise ModelError(
                f"A capture needs a Model from itda.load_model or itda.wrap. Got {type(model).__name__} instead."
            )
        if not isinstance(corpus, Corpus):
            raise CorpusError(f"A capture needs an itda.Corpus. Got {type(corpus).__name__}; try Corpus.from_texts.")
        if not sites or len(set(sites)) < len(sites):
            raise OptionError(f"A capture needs sites, each once. Got {list(sites)} instead.")
        self.model, self.corpus, self.options = model, corpus, options
        self.sites: list[Site] = [model.site(name) for name in sites]
        self.length = options.window or model.window
        self.counts: dict[str, Counter[str]] = {site.name: Counter() for site in self.sites}
        self._shares = self._plan()
        self._names = tokenizing.token_names(model)
        self._thresholds: dict[str, float] = {}

    @property
    def total(self) -> int:
        """Rows there will be, less the sinks that are dropped where all tokens are wanted."""
        return sum(self._shares.values())

    @property
    def documents(self) -> tuple[str, ...]:
        """Ids of the documents that give rows, in order."""
        return tuple(self._shares)

    def provenance(self, site: str) -> Provenance:
        """Where the rows of a site come from, with what was counted so far."""
        return Provenance(
            model=self.model.record,
            site=site,
            corpus=self.corpus.fingerprint,
            corpus_name=self.corpus.name,
            capture={
                **asdict(self.options),
                "window": self.length,
                # What decides the bits; a batch size that decides nothing must not change the file
                "batch_size": CANONICAL_BATCH if self.options.canonical else self.options.batch_size,
                "sink_norm": self._thresholds.get(site),
                "counts": dict(sorted(self.counts[site].items())),
            },
        )

    def __iter__(self) -> Iterator[dict[str, Block]]:
        self._thresholds = self._usual_norms()
        owed = Counter[str]()  # rows that sinks have taken away, made up for by later windows
        for pieces in self._batches(self._pieces()):
            yield {
                site.name: self._select(site.name, values, pieces, owed)
                for site, values in zip(self.sites, self._forward(pieces), strict=True)
            }

    def _plan(self) -> dict[str, int]:
        """Rows to take from each document that gives any."""
        sizes = {document.id: sum(self._eligible(window).sum() for window in cut) for document, cut in self._windows()}
        sizes = {id_: int(size) for id_, size in sizes.items() if size}
        available = sum(sizes.values())
        if not available:
            _ = self.corpus.summary  # says so if there is no text at all
            raise CorpusError(f"The corpus {self.corpus.name} gives no token to take an activation from.")
        wanted = self.options.tokens
        if wanted is None or wanted == available:
            return sizes
        if wanted > available:
            raise CorpusError(
                f"The corpus {self.corpus.name} has {available:,} tokens to take. Got tokens={wanted:,}; "
                "ask for fewer, leave tokens out to take all, or add text."
            )
        ranked = sorted(sizes, key=lambda id_: _digest(self.options.seed, id_))
        shares = spread(wanted, {id_: sizes[id_] for id_ in ranked})
        return {id_: shares[id_] for id_ in sizes if shares.get(id_)}

    def _windows(self, only: Callable[[str], bool] = lambda id_: True) -> Iterator[tuple[Document, list[TokenWindow]]]:
        for documents in in_groups((document for document in self.corpus if only(document.id)), _TEXTS_AT_ONCE):
            texts = [document.text for document in documents]
            cut = tokenizing.windows(self.model, texts, length=self.length, bos=self.options.bos)
            yield from zip(documents, cut, strict=True)

    def _eligible(self, window: TokenWindow) -> NDArray[np.bool_]:
        return ~window.special if self.options.special_tokens == "drop" else np.ones(len(window), np.bool_)

    def _pieces(self) -> Iterator[Piece]:
        """The windows that are run: whole ones as far as possible, since a pass costs the same for one row."""
        for document, cut in self._windows(self._shares.__contains__):
            generator = np.random.default_rng(_digest(self.options.seed, document.id))
            left = self._shares[document.id]
            wanted = [0] * len(cut)
            for place in generator.permutation(len(cut)).tolist():
                wanted[place] = min(left, int(self._eligible(cut[place]).sum()))
                left -= wanted[place]
            for window, count in zip(cut, wanted, strict=True):
                if count:
                    yield Piece(document, window, generator.permutation(np.flatnonzero(self._eligible(window))), count)

    def _batches(self, pieces: Iterator[Piece]) -> Iterator[tuple[Piece, ...]]:
        return in_groups(pieces, CANONICAL_BATCH if self.options.canonical else self.options.batch_size)

    def _forward(self, pieces: Sequence[Piece]) -> list[Tensor]:
        parts = [piece.window for piece in pieces]
        side = self.options.padding_side
        if self.options.canonical:
            inputs = tokenizing.canonical_batch(self.model, parts, length=self.length, side=side)
        else:
            inputs = tokenizing.batch(self.model, parts, length=None, side=side)
        found = read(self.model.module, inputs, self.sites)
        size = inputs["input_ids"].shape[1]
        # Padding goes by what was put there, never by token id: many tokenizers pad with a real token.
        starts = [0 if side == "right" else size - len(part) for part in parts]
        tokens = [slice(start, start + len(part)) for start, part in zip(starts, parts, strict=True)]
        return [
            torch.cat([found[site.name][row, place] for row, place in enumerate(tokens)]).float().cpu()
            for site in self.sites
        ]

    def _usual_norms(self) -> dict[str, float]:
        """The norm above which an activation is a sink, from the first windows of the corpus."""
        norms: dict[str, list[Tensor]] = {site.name: [] for site in self.sites}
        seen = 0
        for pieces in self._batches(self._pieces()):
            text = torch.from_numpy(np.concatenate([~piece.window.special for piece in pieces]))
            for site, values in zip(self.sites, self._forward(pieces), strict=True):
                norms[site.name].append(torch.linalg.vector_norm(values, dim=1)[text])
            seen += len(pieces)
            if seen >= _CALIBRATION_WINDOWS:
                break
        return {name: self.options.sink_ratio * float(torch.cat(parts).median()) for name, parts in norms.items()}

    def _select(self, site: str, values: Tensor, pieces: Sequence[Piece], owed: Counter[str]) -> Block:
        finite(values, f"The activations at {site!r}")
        sink = (torch.linalg.vector_norm(values, dim=1) > self._thresholds[site]).numpy()
        counts = self.counts[site]
        taken, first = [], 0
        for piece in pieces:
            ends = first + len(piece.window)
            is_sink = sink[first:ends]
            free = piece.order[~is_sink[piece.order]] if self.options.sinks == "drop" else piece.order
            chosen = np.sort(free[: piece.wanted + owed[site]])
            owed[site] += piece.wanted - len(chosen)
            taken.append(chosen)
            counts["tokens"] += len(piece.window)
            counts["special"] += int(piece.window.special.sum())
            counts["sinks"] += int((is_sink & self._eligible(piece.window)).sum())
            counts["rows"] += len(chosen)
            first = ends
        offsets = np.cumsum([0, *(len(piece.window) for piece in pieces)])
        rows = torch.from_numpy(
            np.concatenate([chosen + offset for chosen, offset in zip(taken, offsets, strict=False)])
        )
        return Block(values[rows], self._sources(pieces, taken, counts["rows"] - len(rows)))

    def _sources(self, pieces: Sequence[Piece], taken: Sequence[NDArray[np.int64]], first: int) -> Sources:
        used = [(piece, chosen) for piece, chosen in zip(pieces, taken, strict=True) if len(chosen)]

        def column(name: str) -> Tensor:
            parts = [getattr(piece.window, name)[chosen] for piece, chosen in used]
            return torch.from_numpy(np.concatenate([np.empty(0, np.int64), *parts]))

        return Sources(
            row=torch.arange(first, first + sum(len(chosen) for _, chosen in used)),
            window=torch.repeat_interleave(torch.tensor([len(chosen) for _, chosen in used], dtype=torch.int64)),
            char_start=column("starts"),
            char_end=column("ends"),
            token_id=column("token_ids"),
            token_index=column("index"),
            windows=tuple(
                Window(document.id, window.start, document.text[window.start : window.end])
                for (document, window, _, _), _ in used
            ),
            token_names=self._names,
        )


def capture(
    model: Model, corpus: Corpus, site: str | Sequence[str] | None = None, *, progress: bool = True, **options: Any
) -> Any:
    """Take activations from a model as it reads a corpus.

    Args:
        model: from `load_model` or `wrap`.
        corpus: what it reads.
        site: a place such as `resid_post.2` (the middle layer by default), or several, taken in one pass.
        progress: draw a bar on stderr.
        options: fields of `CaptureOptions`: tokens, window, bos, special_tokens, sinks, ...
    Returns: Activations (rows float32 (N, D), sources), or {site: Activations} for several sites.
    Raises: SiteError, CorpusError, ModelError, OptionError; ActivationError for NaN or infinity.
    """
    sites = [site or model.middle_site] if site is None or isinstance(site, str) else list(site)
    run = Capture(model, corpus, sites, checked(CaptureOptions, options))
    blocks: dict[str, list[Block]] = {name: [] for name in sites}
    with progress_bars.bar("capture", run.total, show=progress) as advance:
        for block in run:
            for name, part in block.items():
                blocks[name].append(part)
            advance(len(block[sites[0]].rows))
    found = {
        name: Activations(
            torch.cat([part.rows for part in parts]),
            Sources.concatenate(part.sources for part in parts),
            run.provenance(name),
            run.documents,
        )
        for name, parts in blocks.items()
    }
    return found if site is not None and not isinstance(site, str) else found[sites[0]]


def whole_windows(
    model: Model, corpus: Corpus, *, tokens: int | None, length: int, bos: bool | None, seed: int
) -> list[tuple[Document, TokenWindow]]:
    """About `tokens` tokens of a corpus in whole windows, spread evenly over the documents; all for None.

    Raises: CorpusError if there is not one token.
    """

    def cut() -> Iterator[tuple[Document, list[TokenWindow]]]:
        for documents in in_groups(corpus, _TEXTS_AT_ONCE):
            texts = [document.text for document in documents]
            yield from zip(documents, tokenizing.windows(model, texts, length=length, bos=bos), strict=True)

    lengths = {document.id: [len(part) for part in parts] for document, parts in cut() if parts}
    if not lengths:
        raise CorpusError(f"The corpus {corpus.name} gives no token to look at.")
    orders = {id_: np.random.default_rng(_digest(seed, id_)).permutation(len(sizes)) for id_, sizes in lengths.items()}
    ranked = sorted(lengths, key=lambda id_: _digest(seed, id_))
    chosen: set[tuple[str, int]] = set()
    left = tokens if tokens is not None else sum(map(sum, lengths.values()))
    for turn in range(max(map(len, lengths.values()))):  # a window of every document before a second of any
        for id_ in ranked:
            if left > 0 and turn < len(orders[id_]):
                place = int(orders[id_][turn])
                chosen.add((id_, place))
                left -= lengths[id_][place]
    return [
        (document, part)
        for document, parts in cut()
        for place, part in enumerate(parts)
        if (document.id, place) in chosen
    ]


def decomposed(window: TokenWindow, values: Tensor, captured: Mapping[str, Any]) -> Tensor:
    """Which tokens of a window a dictionary is meant for, bool (T,): those that its own capture kept.

    Args:
        values: activations (T, D) of the window.
        captured: the capture record of the dictionary's provenance; nothing is left out if empty.
    """
    keep = torch.ones(len(window), dtype=torch.bool)
    if captured.get("special_tokens") == "drop":
        keep &= ~torch.from_numpy(window.special)
    if captured.get("sinks") == "drop" and captured.get("sink_norm") is not None:
        keep &= (torch.linalg.vector_norm(values.float(), dim=1) <= captured["sink_norm"]).cpu()
    return keep


def in_groups(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """The items in groups of `size`, the last one smaller (itertools.batched of Python 3.12)."""
    rest = iter(items)
    return iter(lambda: tuple(islice(rest, size)), ())


def spread(total: int, sizes: dict[str, int]) -> dict[str, int]:
    """Share `total` rows evenly over documents, none giving more than it has; the first get what is left over."""
    shares = dict.fromkeys(sizes, 0)
    open_ids = list(sizes)
    while total:
        level = total // len(open_ids)
        if level == 0:
            for id_ in open_ids[:total]:
                shares[id_] += 1
            break
        for id_ in open_ids:
            given = min(level, sizes[id_] - shares[id_])
            shares[id_] += given
            total -= given
        open_ids = [id_ for id_ in open_ids if shares[id_] < sizes[id_]]
    return shares


def _digest(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest())

"""One pass of a model over a corpus: rows of some sites, each with its source.

Two readings of the corpus: one counts tokens and decides how many rows each document gives, one
runs the model. Memory is bounded by one batch of windows, the documents that are cut into tokens
together, and, per document, one number.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itda.capturing import sampling
from itda.capturing.options import CaptureOptions
from itda.capturing.position import Position
from itda.capturing.stages import Stage, stages
from itda.data.activations import Block
from itda.data.corpus import Corpus, Document
from itda.data.provenance import Provenance
from itda.data.sources import Sources, Window
from itda.errors import CorpusError, OptionError
from itda.models import tokenizing
from itda.models.loading import Model, checked_model
from itda.models.sites import Site, read_before_norms
from itda.models.tokenizing import CANONICAL_BATCH, TokenWindow
from itda.shapes import finite

_CALIBRATION_WINDOWS = 4 * CANONICAL_BATCH  # windows whose norms say what is usual at a site


class FewerRowsWarning(UserWarning):
    """Sinks took more rows than other tokens could make good."""


class Piece(NamedTuple):
    """One window of a document and which of its tokens are wanted."""

    document: Document
    window: TokenWindow
    order: NDArray[np.int64]
    """Tokens that may be taken, the preferred ones first."""
    wanted: int


class Capture:
    """One pass of a model over a corpus, as blocks of rows for each site.

    Iterate once; `total` and `provenance` say what it will give and what it gave. After each block
    `positions` holds all that another capture of the same things needs to go on behind it: put there
    before the first, it begins there.
    """

    def __init__(
        self,
        model: Model,
        corpus: Corpus,
        sites: Sequence[str],
        options: CaptureOptions,
    ) -> None:
        checked_model(model)
        sites = [sites] if isinstance(sites, str) else sites
        if not isinstance(corpus, Corpus):
            raise CorpusError(f"A capture needs an itda.Corpus. Got {type(corpus).__name__}; try Corpus.from_texts.")
        self.sites: list[Site] = [model.site(name) for name in sites]
        if not sites or len({site.name for site in self.sites}) < len(sites):
            raise OptionError(f"A capture needs sites, each once. Got {list(sites)} instead.")
        if options.roles is not None:
            if corpus.turns is None:
                raise OptionError(
                    f"Activations of {', '.join(options.roles)} are asked for, or a dictionary is meant for those, and "
                    "only conversations have roles: read them with Corpus.from_chats."
                )
            known = {role for turns in corpus.turns.values() for role, _, _ in turns}
            if known.isdisjoint(options.roles):
                raise CorpusError(
                    f"No message of {corpus.name} is by {' or '.join(map(repr, options.roles))}. The roles are "
                    f"{', '.join(sorted(known))}."
                )
        if model.on_disk and not options.canonical:
            raise OptionError("A model on disk is run layer by layer, in passes of one shape. Leave canonical on.")
        self.model, self.corpus, self.options = model, corpus, options
        self.length = options.window or model.window
        self.scratch: Path | None = None
        """Where a model on disk keeps hidden states between its layers, for another capture to go on from."""
        self.positions = {site.name: Position() for site in self.sites}
        self._names = tokenizing.token_names(model)

    @property
    def total(self) -> int:
        """Rows there will be, less the sinks that are dropped where all tokens are wanted.

        Raises: CorpusError if there are fewer tokens than are wanted.
        """
        return sum(self._shares.values())

    @property
    def documents(self) -> tuple[str, ...]:
        """Ids of the documents that give rows, in order."""
        return tuple(self._shares)

    def asked(self, site: str) -> Provenance:
        """Where the rows of a site come from, before anything is found out: two captures with the same are the same."""
        return Provenance(
            model=self.model.record,
            site=site,
            corpus=self.corpus.fingerprint,
            corpus_name=self.corpus.name,
            part=self.corpus.part,
            heads=next(place.heads for place in self.sites if place.name == site),
            capture={
                **asdict(self.options),
                "window": self.length,
                "roles": self.options.roles and list(self.options.roles),  # as files have it
                "sink_norm": self.options.sink_norm_of(site),
                # What decides the bits; a batch size that decides nothing must not change the file
                "batch_size": self._windows_a_pass,
                **({"norms_follow": True} if read_before_norms(self.model.module, site) else {}),
            },
        )

    def sink_norms(self) -> dict[str, float]:
        """The norm above which a row is a sink, by site; for a model on disk those that are known already."""
        for stage in () if self.model.on_disk else stages(self.model, self.sites, None):
            self._find_sink_norms(stage)
        return {name: position.sink_norm for name, position in self.positions.items() if position.sink_norm is not None}

    def provenance(self, site: str) -> Provenance:
        """Where the rows of a site come from, with what was found out so far."""
        asked, position = self.asked(site), self.positions[site]
        found = {"sink_norm": position.sink_norm, "counts": dict(sorted(position.counts.items()))}
        return replace(asked, capture={**asked.capture, **found})

    def __iter__(self) -> Iterator[dict[str, Block]]:
        return self.blocks(site.name for site in self.sites)

    def blocks(self, names: Iterable[str]) -> Iterator[dict[str, Block]]:
        """The blocks of some of the sites from their positions on.

        From a model on disk, one without any site says that a pass over the corpus has ended: what came so far
        must be safe before the next, if whoever takes it means to go on after a stop.
        """
        chosen = set(names)
        sites = [site for site in self.sites if site.name in chosen]
        for stage in stages(self.model, sites, self.scratch):
            self._find_sink_norms(stage)
            for index, pieces in enumerate(self._batches(self._pieces())):
                due = [site for site in stage.sites if self.positions[site.name].passes == index]
                if due or stage.wants(index):
                    values = self._forward(stage, index, pieces, due)
                    if due:
                        yield {
                            site.name: self._select(site.name, found, pieces)
                            for site, found in zip(due, values, strict=True)
                        }
            if self.model.on_disk:
                yield {}
        for name, position in self.positions.items():
            wanted = self.options.tokens
            if wanted is not None and position.owed > 0:
                message = (
                    f"Only {wanted - position.owed:,} of {wanted:,} rows at {name!r} could be taken: the others are "
                    "sinks. Ask for fewer tokens, give more text, or keep sinks (sinks='keep')."
                )
                warnings.warn(message, FewerRowsWarning, stacklevel=2)

    @cached_property
    def _shares(self) -> dict[str, int]:
        """Rows to take from each document that gives any."""
        wanted, ids = self.options.tokens, self.corpus.ids
        order = sampling.ranked(ids, self.options.seed)
        if wanted is not None and wanted < len(ids):  # a row each of so many documents: no need to cut the rest
            sizes = self._sizes(order[:wanted])
            if sum(sizes.values()) >= wanted:
                return self._spread(wanted, sizes, order)
        sizes = self._sizes(None)
        available = sum(sizes.values())
        if not available:
            _ = self.corpus.summary  # says so if there is no text at all
            raise CorpusError(f"The corpus {self.corpus.name} gives no token to take an activation from.")
        if wanted is None or wanted == available:
            return sizes
        if wanted > available:
            raise CorpusError(
                f"The corpus {self.corpus.name} has {available:,} tokens to take. Got tokens={wanted:,}; "
                "ask for fewer, leave tokens out to take all, or add text."
            )
        return self._spread(wanted, sizes, order)

    def _sizes(self, only: Sequence[str] | None) -> dict[str, int]:
        """Tokens there are to take from each document that has any, in the order of the corpus."""
        found = {
            document.id: sum(int(self._eligible(window).sum()) for window in parts)
            for document, parts in self._cut(only)
        }
        return {id_: size for id_, size in found.items() if size}

    def _spread(self, wanted: int, sizes: dict[str, int], order: Sequence[str]) -> dict[str, int]:
        shares = sampling.spread(wanted, {id_: sizes[id_] for id_ in order if id_ in sizes})
        return {id_: shares[id_] for id_ in sizes if shares[id_]}

    def _cut(self, only: Iterable[str] | None) -> Iterator[tuple[Document, list[TokenWindow]]]:
        chosen = None if only is None else set(only)
        return sampling.cut(
            self.model, self.corpus, chosen, length=self.length, bos=self.options.bos,
            roles=self.options.roles,
        )  # fmt: skip

    def _eligible(self, window: TokenWindow) -> NDArray[np.bool_]:
        kept = ~window.special if self.options.special_tokens == "drop" else np.ones(len(window), np.bool_)
        return kept & ~window.is_outside

    def _pieces(self) -> Iterator[Piece]:
        """The windows that are run: whole ones as far as possible, since a pass costs the same for one row."""
        for document, cut in self._cut(self._shares):
            generator = np.random.default_rng(sampling.number(self.options.seed, document.id))
            left = self._shares[document.id]
            wanted = [0] * len(cut)
            for place in generator.permutation(len(cut)).tolist():
                wanted[place] = min(left, int(self._eligible(cut[place]).sum()))
                left -= wanted[place]
            for window, count in zip(cut, wanted, strict=True):
                if count:
                    yield Piece(document, window, generator.permutation(np.flatnonzero(self._eligible(window))), count)

    @property
    def _windows_a_pass(self) -> int:
        return CANONICAL_BATCH if self.options.canonical else self.options.batch_size

    def _batches(self, pieces: Iterator[Piece]) -> Iterator[tuple[Piece, ...]]:
        return sampling.in_groups(pieces, self._windows_a_pass)

    def _forward(self, stage: Stage, index: int, pieces: Sequence[Piece], sites: Sequence[Site]) -> list[Tensor]:
        parts = [piece.window for piece in pieces]
        side = self.options.padding_side
        if self.options.canonical:
            inputs = tokenizing.canonical_batch(self.model, parts, length=self.length, side=side)
        else:
            inputs = tokenizing.batch(self.model, parts, length=None, side=side)
        found = stage.read(index, inputs, sites)
        size = inputs["input_ids"].shape[1]
        # Padding goes by what was put there, never by token id: many tokenizers pad with a real token.
        starts = [0 if side == "right" else size - len(part) for part in parts]
        tokens = [slice(start, start + len(part)) for start, part in zip(starts, parts, strict=True)]
        return [
            torch.cat([found[site.name][row, place] for row, place in enumerate(tokens)]).float().cpu()
            for site in sites
        ]

    def _find_sink_norms(self, stage: Stage) -> None:
        """The norm above which an activation is a sink, from the first windows of the corpus."""
        for site in stage.sites:
            position = self.positions[site.name]
            position.sink_norm = position.sink_norm or self.options.sink_norm_of(site.name)
        unknown = [site for site in stage.sites if self.positions[site.name].sink_norm is None]
        if not unknown:
            return
        norms: dict[str, list[Tensor]] = {site.name: [] for site in unknown}
        texts: list[Tensor] = []
        passes = math.ceil(_CALIBRATION_WINDOWS / self._windows_a_pass)
        for index, pieces in enumerate(islice(self._batches(self._pieces()), passes)):
            texts.append(torch.from_numpy(np.concatenate([~piece.window.special for piece in pieces])))
            for site, values in zip(unknown, self._forward(stage, index, pieces, unknown), strict=True):
                norms[site.name].append(torch.linalg.vector_norm(values, dim=1))
        usual = torch.cat(texts)
        if not bool(usual.any()):  # special tokens alone, and they are kept
            usual = torch.ones_like(usual)
        for name, parts in norms.items():
            found = torch.cat(parts)
            self.positions[name].sink_norm = self.options.sink_ratio * float(found[usual].median())

    def _select(self, site: str, values: Tensor, pieces: Sequence[Piece]) -> Block:
        finite(values, f"The activations at {site!r}")
        position = self.positions[site]
        sink = (torch.linalg.vector_norm(values, dim=1) > position.sink_norm).numpy()
        counts = position.counts
        taken, first = [], 0
        for piece in pieces:
            ends = first + len(piece.window)
            is_sink = sink[first:ends]
            free = piece.order[~is_sink[piece.order]] if self.options.sinks == "drop" else piece.order
            chosen = np.sort(free[: piece.wanted + position.owed])
            position.owed += piece.wanted - len(chosen)
            taken.append(chosen)
            counts["tokens"] += len(piece.window)
            counts["special"] += int(piece.window.special.sum())
            counts["begins"] += int(piece.window.index[0] == -1)
            counts["sinks"] += int((is_sink & self._eligible(piece.window)).sum())
            counts["rows"] += len(chosen)
            first = ends
        position.passes += 1
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


def window_length(model: Model, captured: Mapping[str, Any]) -> int:
    """Tokens in a window, as a capture had them; fewer where this model has fewer positions."""
    return min(captured.get("window") or model.window, model.positions)


def decomposed(window: TokenWindow, values: Tensor, captured: Mapping[str, Any]) -> Tensor:
    """Which tokens of a window a dictionary is meant for, bool (T,): those that its own capture kept.

    Args:
        values: activations (T, D) of the window.
        captured: the capture record of the dictionary's provenance; nothing is left out if empty.
    """
    keep = torch.ones(len(window), dtype=torch.bool)
    if captured.get("special_tokens") == "drop":
        keep &= ~torch.from_numpy(window.special)
    keep &= ~torch.from_numpy(window.is_outside)
    if captured.get("sinks") == "drop" and captured.get("sink_norm") is not None:
        keep &= (torch.linalg.vector_norm(values.float(), dim=1) <= captured["sink_norm"]).cpu()
    return keep

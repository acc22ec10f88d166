"""One pass over held-out windows: how much of the activations, and of the predictions, is kept."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.capturing import decomposed, in_groups, whole_windows, window_length
from itda.data.corpus import Corpus, Document
from itda.data.dictionary import Dictionary
from itda.errors import CorpusError
from itda.evaluation.measuring import EVERY, OWN, Measurement, Tally
from itda.evaluation.replacements import Replacements, random_atoms
from itda.evaluation.report import Report
from itda.explaining import place_of
from itda.models import tokenizing
from itda.models.loading import Model
from itda.models.losses import divergence, next_token_loss, predict
from itda.models.tokenizing import TokenWindow
from itda.options import seed_number, whole
from itda.pursuit import Coding, chosen_coding
from itda.shapes import finite

_LOGIT_BYTES = 2**28  # log-probabilities (B, T, vocabulary) of one batch
_NAMELESS = "texts"  # what corpora of texts are called if nobody says


class PerhapsSeenWarning(UserWarning):
    """Text that may be what a dictionary was built from, in other documents."""


def evaluate(
    dictionary: Dictionary,
    model: Model,
    corpus: Corpus,
    *,
    tokens: int | None = 20_000,
    steps: int | None = None,
    coding: Coding | None = None,
    site: str | None = None,
    baselines: bool = True,
    seed: int = 0,
    resamples: int = 1000,
    check_model: bool = True,
    backend: str = "auto",
    memory: int | str | None = None,
    progress: bool = True,
) -> Report:
    """Measure a dictionary on documents it was not built from.

    Args:
        dictionary: what is measured.
        model: the model it was built on.
        corpus: held-out text; documents that the dictionary was built from are left out and counted.
        tokens: look at about so many tokens in whole windows, spread evenly over the documents; None for all.
        steps, coding: instead of the dictionary's own coding.
        site: where, for a dictionary that was built from a bare array.
        baselines: measure the plain reconstructions too; without them it takes half the time.
        seed: which windows, and which random atoms.
        resamples: bootstrap draws for the intervals.
        check_model: refuse a model with other weights than the dictionary's.
        backend: of the pursuit.
        memory: what inner products of the atoms may take, in bytes or as "2GiB"; None for half of what is free.
        progress: draw a bar on stderr.
    Returns: the report; str() of it is a table.
    Raises: CorpusError if no held-out document is left; MismatchError; ModelError; OptionError.
    """
    resamples = whole("resamples", resamples)
    where = place_of(dictionary, model, site, check_model)
    held_out, excluded = held_out_of(dictionary, corpus)
    tally = tally_windows(
        dictionary, model, held_out, where, tokens=tokens, steps=steps, coding=coding, baselines=baselines, seed=seed,
        backend=backend, memory=memory, progress=progress,
    )  # fmt: skip
    return tally.report(model=model.id, site=where, excluded=excluded, resamples=resamples, seed=seed)


def held_out_of(dictionary: Dictionary, corpus: Corpus) -> tuple[Corpus, int]:
    """The documents of a corpus that a dictionary was not built from, and how many others there are.

    Warns where none is excluded though the corpus has the name of the one it was built from.
    Raises: CorpusError if none is left.
    """
    if not isinstance(corpus, Corpus):
        raise CorpusError(f"Held-out text is an itda.Corpus. Got {type(corpus).__name__}; try Corpus.from_texts.")
    built_from = set(dictionary.documents)
    excluded = sum(id_ in built_from for id_ in corpus.ids)
    if not corpus.ids:
        _ = corpus.summary  # says that it is empty
    if excluded == len(corpus.ids):
        raise CorpusError(
            f"The dictionary was built from all {excluded:,} documents of {corpus.name}, so none is held out. "
            "Give other text, or hold documents out before building: train, held_out = corpus.split()."
        )
    built_of = dictionary.provenance.corpus_name.partition(" less ")[0] if dictionary.provenance else ""
    if not excluded and not corpus.is_part and corpus.name == built_of != _NAMELESS:
        message = (
            f"The dictionary was built from {corpus.name} too, and none of these {len(corpus.ids):,} documents is one "
            "it knows: was the text cut otherwise then (split_on, text_field)? Documents are known by their exact "
            "text, so these numbers may be of text that it has seen."
        )
        warnings.warn(message, PerhapsSeenWarning, stacklevel=3)
    return corpus.without(built_from), excluded


def tally_windows(
    dictionary: Dictionary,
    model: Model,
    held_out: Corpus,
    where: str,
    *,
    tokens: int | None,
    steps: int | None,
    coding: Coding | None,
    baselines: bool,
    seed: int,
    backend: str,
    memory: int | str | None,
    progress: bool,
) -> Tally:
    """What `evaluate` makes its report of; that of another part of the text can be added to it.

    Args: as `evaluate`, but for `where`: the place that `place_of` found.
    Raises: as `evaluate`.
    """
    if tokens is not None:
        tokens = whole("tokens", tokens)
    seed = seed_number(seed)
    captured: Mapping[str, Any] = dictionary.provenance.capture if dictionary.provenance else {}
    length = window_length(model, captured)
    chosen = whole_windows(
        model, held_out, tokens=tokens, length=length, bos=captured.get("bos"), seed=seed,
        roles=captured.get("roles"),
    )  # fmt: skip
    used = chosen_coding(dictionary.coding, coding, steps)
    randoms = random_atoms(dictionary, model, where, seed, memory=memory) if baselines else None
    if memory is not None:
        dictionary.prepare(memory=memory)
    replacements = Replacements(dictionary, used, randoms=randoms, baselines=baselines, backend=backend)
    run = _Pass(Measurement(dictionary, used, backend, replacements), model, where, captured, length)
    with progress_bars.bar("evaluate", len(chosen), show=progress) as advance:
        for group in in_groups(chosen, run.batch_size):
            run.take(group)
            advance(len(group))
    return run.measured.tally


class _Pass:
    """Windows through the model, with the activations as they are and replaced."""

    def __init__(
        self, measured: Measurement, model: Model, site: str, captured: Mapping[str, Any], length: int
    ) -> None:
        self.measured, self.model, self.place = measured, model, model.site(site)
        self.captured, self.length = captured, length

    @property
    def batch_size(self) -> int:
        """Windows that are run together, so that the predictions fit."""
        vocabulary = int(getattr(self.model.module.config.get_text_config(), "vocab_size", 1))
        bytes_a_window = 4 * vocabulary * self.length if self.model.predicts else 1
        return max(1, min(tokenizing.CANONICAL_BATCH, _LOGIT_BYTES // bytes_a_window))

    def take(self, group: Sequence[tuple[Document, TokenWindow]]) -> None:
        """Measure one batch of windows."""
        inputs = tokenizing.batch(self.model, [window for _, window in group], length=self.length)
        values = self.model.read(inputs, [self.place])[self.place.name]
        real = inputs["attention_mask"].bool()
        rows = finite(values[real].float().cpu(), f"The activations at {self.place.name!r}")
        sizes = real.sum(1).tolist()
        parts = torch.split(rows, sizes)
        keep = torch.cat(
            [decomposed(window, part, self.captured) for (_, window), part in zip(group, parts, strict=True)]
        )
        special = torch.from_numpy(np.concatenate([window.special for _, window in group]))
        outside = torch.from_numpy(np.concatenate([window.is_outside for _, window in group]))
        left_out = self.measured.tally.left_out
        left_out["special"] += int((~keep & special).sum())
        left_out["other roles"] += int((~special & outside).sum())
        left_out["sink"] += int((~keep & ~special & ~outside).sum())
        documents = [document.id for (document, _), size in zip(group, sizes, strict=True) for _ in range(size)]
        rebuilt = self.measured.take(rows, inputs["input_ids"][real].cpu(), documents, keep)
        if self.model.predicts:
            self._add_losses(group, inputs, rows, keep, rebuilt)

    def _add_losses(
        self,
        group: Sequence[tuple[Document, TokenWindow]],
        inputs: dict[str, Tensor],
        rows: Tensor,
        keep: Tensor,
        rebuilt: Mapping[str, Tensor],
    ) -> None:
        real = inputs["attention_mask"].bool()
        predicts = real[:, 1:] & real[:, :-1]
        clean = predict(self.model, inputs)
        plain = {"zero": torch.zeros_like(rows)}
        if self.measured.replacements.mean is not None:
            plain["mean"] = self.measured.replacements.mean.expand_as(rows)
        variants = {name: torch.where(keep[:, None], other, rows) for name, other in {**plain, **rebuilt}.items()}
        replaced = {f"{name}, {EVERY}": other for name, other in {**plain, OWN: rebuilt[OWN]}.items()}
        if not bool(keep.all()):
            variants |= replaced
        loss = next_token_loss(clean, inputs["input_ids"])
        sums: dict[str, Tensor] = {"predictions": predicts.double().sum(1), "loss": (loss * predicts).double().sum(1)}
        for name, replacement in variants.items():

            def change(values: Tensor, replacement: Tensor = replacement) -> Tensor:
                changed = values.clone()
                changed[real] = replacement.to(values)
                return changed

            changed = predict(self.model, inputs, self.place, change)
            sums[f"loss {name}"] = (next_token_loss(changed, inputs["input_ids"]) * predicts).double().sum(1)
            sums[f"kl {name}"] = (divergence(clean, changed) * predicts).double().sum(1)
        if bool(keep.all()):  # every token is replaced as it is: the same sums, at no further pass
            for name in replaced:
                same = name.removesuffix(f", {EVERY}")
                sums[f"loss {name}"], sums[f"kl {name}"] = sums[f"loss {same}"], sums[f"kl {same}"]
        for index, (document, _) in enumerate(group):
            self.measured.tally.sums.add(document.id, **{name: float(values[index]) for name, values in sums.items()})

"""One pass over held-out windows: how much of the activations, and of the predictions, is kept."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.capturing import decomposed, in_groups, whole_windows
from itda.data.corpus import Corpus, Document
from itda.data.dictionary import Dictionary
from itda.errors import CorpusError
from itda.evaluation.replacements import Replacements, random_atoms
from itda.evaluation.report import Report, Scores
from itda.evaluation.statistics import DocumentSums, Totals, interval
from itda.explaining import place_of
from itda.models import tokenizing
from itda.models.hooks import read
from itda.models.loading import Model
from itda.models.losses import divergence, next_token_loss, predict
from itda.models.tokenizing import TokenWindow
from itda.options import whole
from itda.pursuit import Coding, checked_coding
from itda.shapes import finite

_LOGIT_BYTES = 2**28  # log-probabilities (B, T, vocabulary) of one batch
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_ROUNDING = 1e-12
_OWN = "dictionary"
_EVERY = "every token"


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
    if not isinstance(corpus, Corpus):
        raise CorpusError(f"evaluate needs an itda.Corpus. Got {type(corpus).__name__}; try Corpus.from_texts.")
    if tokens is not None:
        whole("tokens", tokens)
    whole("resamples", resamples)
    whole("seed", seed, least=0)
    where = place_of(dictionary, model, site, check_model)
    built_from = set(dictionary.documents)
    held_out = corpus.without(built_from)
    excluded = sum(id_ in built_from for id_ in corpus.ids)
    if not corpus.ids:
        _ = corpus.summary  # says that it is empty
    if excluded == len(corpus.ids):
        raise CorpusError(
            f"The dictionary was built from all {excluded:,} documents of {corpus.name}, so none is held out. "
            "Give other text, or hold documents out before building: train, held_out = corpus.split()."
        )
    captured: Mapping[str, Any] = dictionary.provenance.capture if dictionary.provenance else {}
    length = min(captured.get("window") or model.window, model.positions)
    chosen = whole_windows(model, held_out, tokens=tokens, length=length, bos=captured.get("bos"), seed=seed)
    used = checked_coding(coding or dictionary.coding).with_options(steps=steps)
    randoms = random_atoms(dictionary, model, where, seed, memory=memory) if baselines else None
    if memory is not None:
        dictionary.prepare(memory=memory)
    run = _Pass(
        dictionary, model, where, captured, length, used, backend,
        Replacements(dictionary, used, randoms=randoms, baselines=baselines, backend=backend),
    )  # fmt: skip
    with progress_bars.bar("evaluate", len(chosen), show=progress) as advance:
        for group in in_groups(chosen, run.batch_size):
            run.take(group)
            advance(len(group))
    return run.report(excluded=excluded, resamples=resamples, seed=seed)


class _Pass:
    """Sums over all windows, and the report at the end."""

    def __init__(
        self,
        dictionary: Dictionary,
        model: Model,
        site: str,
        captured: Mapping[str, Any],
        length: int,
        coding: Coding,
        backend: str,
        replacements: Replacements,
    ) -> None:
        self.dictionary, self.model, self.place = dictionary, model, model.site(site)
        self.captured, self.length, self.coding, self.backend = captured, length, coding, backend
        self.replacements = replacements
        self.sums = DocumentSums()
        self.left_out: Counter[str] = Counter()
        self.unexplained: list[Tensor] = []
        self.usage = torch.zeros(len(dictionary), dtype=torch.int64)
        self.names: list[str] = []
        self.route = ""

    @property
    def batch_size(self) -> int:
        """Windows that are run together, so that the predictions fit."""
        vocabulary = int(getattr(self.model.module.config.get_text_config(), "vocab_size", 1))
        bytes_a_window = 4 * vocabulary * self.length if self.model.predicts else 1
        return max(1, min(tokenizing.CANONICAL_BATCH, _LOGIT_BYTES // bytes_a_window))

    def take(self, group: Sequence[tuple[Document, TokenWindow]]) -> None:
        """Measure one batch of windows."""
        inputs = tokenizing.batch(self.model, [window for _, window in group], length=self.length)
        values = read(self.model.module, inputs, [self.place])[self.place.name]
        real = inputs["attention_mask"].bool()
        rows = finite(values[real].float().cpu(), f"The activations at {self.place.name!r}")
        ids = inputs["input_ids"][real].cpu()
        owner = torch.repeat_interleave(real.sum(1).cpu())
        parts = torch.split(rows, real.sum(1).tolist())
        keep = torch.cat(
            [decomposed(window, part, self.captured) for (_, window), part in zip(group, parts, strict=True)]
        )
        special = torch.from_numpy(np.concatenate([window.special for _, window in group]))
        self.left_out["special"] += int((~keep & special).sum())
        self.left_out["sink"] += int((~keep & ~special).sum())

        codes = self.dictionary.encode(rows, coding=self.coding, backend=self.backend)
        self.route = codes.route
        rebuilt = {_OWN: self.dictionary.decode(codes), **self.replacements.plain(rows, ids)}
        self.names = list(rebuilt)
        self._add_rows(group, rows, ids, owner, keep, rebuilt)
        self.unexplained.append(codes.unexplained[keep])
        self.usage += codes[keep].usage(len(self.dictionary))
        if self.model.predicts:
            self._add_losses(group, inputs, rows, keep, rebuilt)

    def _add_rows(
        self,
        group: Sequence[tuple[Document, TokenWindow]],
        rows: Tensor,
        ids: Tensor,
        owner: Tensor,
        keep: Tensor,
        rebuilt: Mapping[str, Tensor],
    ) -> None:
        means = self.dictionary.token_means
        beyond = rows - means.of(ids) if means is not None else None
        cosine = torch.nn.functional.cosine_similarity(rows, rebuilt[_OWN], dim=1)
        for index, (document, _) in enumerate(group):
            for which, mine in (("", keep & (owner == index)), (f", {_EVERY}", owner == index)):
                own = rows[mine].double()
                values: dict[str, Any] = {
                    f"count{which}": len(own),
                    f"sum{which}": own.sum(0).numpy(),
                    f"energy{which}": float(own.square().sum()),
                    f"cosine{which}": float(cosine[mine].sum()),
                }
                if beyond is not None:
                    values[f"beyond token{which}"] = float(beyond[mine].double().square().sum())
                for name, other in rebuilt.items():
                    values[f"error {name}{which}"] = float((own - other[mine].double()).square().sum())
                self.sums.add(document.id, **values)

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
        plain = {"zero": torch.zeros_like(rows), "mean": self.replacements.mean.expand_as(rows)}
        variants = {name: torch.where(keep[:, None], other, rows) for name, other in {**plain, **rebuilt}.items()}
        replaced = {f"{name}, {_EVERY}": other for name, other in {**plain, _OWN: rebuilt[_OWN]}.items()}
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
                same = name.removesuffix(f", {_EVERY}")
                sums[f"loss {name}"], sums[f"kl {name}"] = sums[f"loss {same}"], sums[f"kl {same}"]
        for index, (document, _) in enumerate(group):
            self.sums.add(document.id, **{name: float(values[index]) for name, values in sums.items()})

    def report(self, *, excluded: int, resamples: int, seed: int) -> Report:
        """Everything, once all windows are taken."""
        table = self.sums.table()
        totals = {name: column.sum(0) for name, column in table.items()}
        if not totals["count"]:
            raise CorpusError("Every held-out token is special or a sink, so nothing was decomposed. Give more text.")
        scores = _scores(totals, _OWN)
        intervals = {}
        for name, value in vars(scores).items():
            if value is None:
                continue

            def measure(drawn: Totals, name: str = name) -> float:
                return float(getattr(_scores(drawn, _OWN), name))

            ends = interval(measure, table, resamples=resamples, seed=seed)
            if ends is not None:
                intervals[name] = ends
        shares = torch.cat(self.unexplained).double().numpy()
        count = int(totals["count"])
        has_loss = "loss" in totals
        predictions = int(totals["predictions"]) if has_loss else 0

        def loss(name: str) -> float | None:
            return float(totals[name] / totals["predictions"]) if has_loss else None

        return Report(
            model=self.model.id,
            site=self.place.name,
            atoms=len(self.dictionary),
            coding=self.coding.to_dict(),
            route=self.route,
            tokens=count,
            predictions=predictions,
            documents=len(self.sums),
            excluded_documents=excluded,
            not_decomposed=dict(self.left_out),
            scores=scores,
            intervals=intervals,
            baselines={name: _scores(totals, name) for name in self.names if name != _OWN},
            everything_replaced=_scores(totals, _OWN, f", {_EVERY}")
            if has_loss and any(self.left_out.values())
            else None,
            loss=loss("loss"),
            loss_zero=loss("loss zero"),
            loss_mean=loss("loss mean"),
            l0=float(self.usage.sum()) / count,
            cosine=float(totals["cosine"]) / count,
            unexplained={
                "mean": float(shares.mean()),
                **{f"{quantile:.0%}": float(np.quantile(shares, quantile)) for quantile in _QUANTILES},
            },
            atoms_never_used=int((self.usage == 0).sum()),
            atoms_used_everywhere=int((self.usage * 2 >= count).sum()),
        )


def _scores(totals: Totals, name: str, which: str = "") -> Scores:
    """The scores of one reconstruction from sums over documents, for the decomposed tokens or for every one."""
    error, energy = totals[f"error {name}{which}"], totals[f"energy{which}"]
    spread = energy - np.square(totals[f"sum{which}"]).sum() / totals[f"count{which}"]
    beyond = totals.get(f"beyond token{which}")
    losses: dict[str, float] = {}
    if "loss" in totals:
        clean, own = totals["loss"], totals[f"loss {name}{which}"]
        zero, mean = totals[f"loss zero{which}"], totals[f"loss mean{which}"]
        losses = {
            "delta_ce": float((own - clean) / totals["predictions"]),
            "ce_score": _ratio(own - zero, clean - zero),
            "ce_score_mean": _ratio(own - mean, clean - mean),
            "kl": float(totals[f"kl {name}{which}"] / totals["predictions"]),
        }
    return Scores(
        # What the subtraction leaves of equal rows is rounding
        fvu=_ratio(error, spread if spread > _ROUNDING * energy else 0.0),
        residual_fvu=None if beyond is None else _ratio(error, beyond),
        **losses,
    )


def _ratio(part: Any, total: Any) -> float:
    """NaN where there is nothing to divide by, as for a single row."""
    return float(part / total) if total else float("nan")

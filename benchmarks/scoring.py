"""How well any reconstruction stands in for the activations at a place of a model, as `itda.evaluate` measures it.

For what is no dictionary: autoencoders, and whatever else gives back rows for rows.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from common import clock
from torch import Tensor

import itda
from itda.capturing import decomposed, in_groups, whole_windows, window_length
from itda.data.token_means import TokenMeans
from itda.models import tokenizing
from itda.models.loading import Model
from itda.models.losses import next_token_loss, predict


class Way(NamedTuple):
    """A way to write rows as codes, and back."""

    encode: Callable[[Tensor], Any]
    """Rows (n, D) -> codes."""
    decode: Callable[[Any], tuple[Tensor, Tensor]]
    """Codes -> the rows that they stand for (n, D), and how many directions each used (n,)."""


class HeldOut:
    """Held-out windows of one model, read once, and its loss on them."""

    def __init__(
        self,
        model: Model,
        corpus: itda.Corpus,
        site: str,
        capture: Mapping[str, Any],
        means: TokenMeans,
        tokens: int,
    ) -> None:
        """Read about `tokens` tokens at a site, leaving out what the capture of the build rows left out."""
        self.model, self.place, self.means = model, model.site(site), means
        length = window_length(model, capture)
        windows = whole_windows(model, corpus, tokens=tokens, length=length, bos=capture.get("bos"), seed=0)
        self.batches: list[dict[str, Tensor]] = []
        self.rows: list[Tensor] = []
        self.kept: list[Tensor] = []
        self.ids: list[Tensor] = []
        self.clean: list[tuple[float, float]] = []
        for group in in_groups(windows, tokenizing.CANONICAL_BATCH):
            inputs = tokenizing.batch(model, [window for _, window in group], length=length)
            real = inputs["attention_mask"].bool()
            rows = model.read(inputs, [self.place])[self.place.name][real].float().cpu()
            parts = torch.split(rows, real.sum(1).tolist())
            self.batches.append(inputs)
            self.rows.append(rows)
            kept = [decomposed(window, part, capture) for (_, window), part in zip(group, parts, strict=True)]
            self.kept.append(torch.cat(kept))
            self.ids.append(inputs["input_ids"][real].cpu())
            if model.predicts:
                self.clean.append(self._loss(inputs, None))

    @property
    def compared(self) -> Tensor:
        """The rows (n, D) that scores are about."""
        return torch.cat(self.rows)[torch.cat(self.kept)]

    def scores(self, way: Way) -> dict[str, float]:
        """FVU, residual FVU, rise of the loss in nats where one is predicted, mean L0, seconds to encode a million."""
        way.encode(self.rows[0])  # what is prepared once is no part of the time
        error = l0 = loss = clean = predictions = seconds = 0.0
        for number, (inputs, rows, kept) in enumerate(zip(self.batches, self.rows, self.kept, strict=True)):
            begin = clock()
            codes = way.encode(rows)
            seconds += clock() - begin
            rebuilt, used = way.decode(codes)
            error += float((rows - rebuilt)[kept].double().square().sum())
            l0 += float(used[kept].sum())
            if self.model.predicts:
                loss += float(self._loss(inputs, torch.where(kept[:, None], rebuilt, rows))[0])
                clean += float(self.clean[number][0])
                predictions += float(self.clean[number][1])
        kept = torch.cat(self.kept)
        rows, ids = torch.cat(self.rows)[kept], torch.cat(self.ids)[kept]
        beyond = float((rows - self.means.of(ids)).double().square().sum())
        found = {
            "fvu": error / float((rows - rows.mean(0)).double().square().sum()),
            "residual_fvu": error / beyond,
            "l0": l0 / len(rows),
            "seconds_a_million": 1e6 * seconds / sum(map(len, self.rows)),
        }
        return found | ({"delta_ce": (loss - clean) / predictions} if self.model.predicts else {})

    def _loss(self, inputs: dict[str, Tensor], rows: Tensor | None) -> tuple[float, float]:
        real = inputs["attention_mask"].bool()
        predicts = real[:, 1:] & real[:, :-1]

        def change(values: Tensor) -> Tensor:
            assert rows is not None
            changed = values.clone()
            changed[real] = rows.to(values)
            return changed

        found = predict(self.model, inputs, *(() if rows is None else (self.place, change)))
        loss = next_token_loss(found, inputs["input_ids"])
        return float((loss * predicts).double().sum()), float(predicts.sum())


def of_dictionary(dictionary: itda.Dictionary, coding: itda.Coding | None = None) -> Way:
    """A pursuit on a dictionary."""
    return Way(lambda rows: dictionary.encode(rows, coding=coding), lambda codes: (dictionary.decode(codes), codes.l0))

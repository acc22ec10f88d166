"""What is put in the place of the activations: the dictionary's reconstruction and the plain baselines."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from itda.building.calibrating import calibrated
from itda.capturing import decomposed, in_groups, window_length
from itda.data.dictionary import Dictionary
from itda.models import tokenizing
from itda.models.loading import Model
from itda.pursuit import Coding, Prepared, prepare, pursue, rebuild

_TOKENS_A_WINDOW = 8  # drawn for the random atoms: few enough to be diverse, many enough to be cheap
_PLENTY = 4096  # rows that say how many atoms codes have in the mean


class RandomAtoms(NamedTuple):
    """Activations that nobody chose."""

    prepared: Prepared
    others: Tensor
    """Centred rows (n, D) from the same windows that are no atoms."""

    def coding(self, coding: Coding, backend: str) -> Coding:
        """As many atoms in the mean as `coding` asks for: a threshold found for better atoms would grant these more."""
        if not coding.varies:
            return coding
        return calibrated(coding.asked, self.others, self.prepared, backend)


def random_atoms(
    dictionary: Dictionary, model: Model, site: str, seed: int, *, memory: int | str | None = None
) -> RandomAtoms | None:
    """As many random activations as the dictionary has atoms, from the windows its atoms come from.

    The windows' text travels with the dictionary, so the baseline needs no second corpus. None where
    there is no text or too little of it, and where only some roles of conversations were captured: a window does
    not say which of its tokens those are.
    """
    if not dictionary.sources.named or dictionary.provenance is None:  # a table of items has no text to read
        return None
    if dictionary.provenance.capture.get("roles"):
        return None
    generator = np.random.default_rng(seed)
    windows = dictionary.sources.windows
    captured: Mapping[str, Any] = dictionary.provenance.capture
    length = window_length(model, captured)
    place = model.site(site)
    wanted = len(dictionary)
    quota = max(_TOKENS_A_WINDOW, -(-wanted // len(windows)))
    drawn: list[Tensor] = []
    spare: list[Tensor] = []  # for windows that have fewer tokens than their quota
    for places in in_groups(generator.permutation(len(windows)).tolist(), tokenizing.CANONICAL_BATCH):
        texts = [windows[index].text for index in places]
        parts = [cut[0] for cut in tokenizing.windows(model, texts, length=length, bos=captured.get("bos")) if cut]
        if not parts:
            continue
        values = model.read(tokenizing.canonical_batch(model, parts, length=length), [place])[site]
        for row, part in enumerate(parts):
            own = values[row, : len(part)].float().cpu()
            keep = torch.nonzero(decomposed(part, own, captured))[:, 0].numpy()
            order = torch.from_numpy(generator.permutation(keep))
            drawn.append(own[order[:quota]])
            if sum(map(len, spare)) < wanted + _PLENTY:
                spare.append(own[order[quota:]])
        if sum(map(len, drawn)) >= wanted:
            break
    rows = (
        torch.cat([*drawn, *spare])[: wanted + _PLENTY] - dictionary.mean
        if drawn
        else torch.empty((0, dictionary.width))
    )
    atoms, others = rows[:wanted], rows[wanted:]
    if len(atoms) < wanted or not bool((atoms != 0).any(1).all()):
        return None
    return RandomAtoms(prepare(torch.nn.functional.normalize(atoms, dim=1), memory=memory), others)


class Replacements:
    """Reconstructions of rows (n, D), by name."""

    def __init__(
        self,
        dictionary: Dictionary,
        coding: Coding,
        *,
        randoms: RandomAtoms | None,
        baselines: bool,
        backend: str,
    ) -> None:
        self._dictionary, self._backend = dictionary, backend
        self._randoms, self._baselines = randoms, baselines
        self._random_coding = randoms.coding(coding, backend) if randoms else coding
        self.mean = dictionary.token_means.overall if dictionary.token_means else None
        if self.mean is None and bool(dictionary.mean.any()):
            self.mean = dictionary.mean
        """The mean activation of the build rows, float32 (D,); None where a dictionary of bare rows did not take it."""

    def plain(self, rows: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
        """The baselines' reconstructions of rows, without a dictionary of our own."""
        if not self._baselines:
            return {}
        found = {} if self.mean is None else {"mean": self.mean.expand_as(rows)}
        if self._dictionary.token_means is not None:
            found["token mean"] = self._dictionary.token_means.of(token_ids)
        if self._randoms is not None:
            centred = rows - self._dictionary.mean
            codes = pursue(centred, self._randoms.prepared, self._random_coding, backend=self._backend)
            found["random atoms"] = rebuild(codes, self._randoms.prepared.atoms) + self._dictionary.mean
        return found

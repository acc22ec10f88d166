"""Sums over rows, document by document, and the report that follows from them."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from itda import logs
from itda.data import files
from itda.data.dictionary import Dictionary
from itda.errors import CorpusError
from itda.evaluation.replacements import Replacements
from itda.evaluation.report import Report, Scores
from itda.evaluation.statistics import DocumentSums, Totals, interval
from itda.pursuit import Coding

OWN = "dictionary"
EVERY = "every token"
_KIND = "tally"
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_ROUNDING = 1e-12
_ROUNDING_OF_MEANS = 2.0**-14
"""Share of the spread that is beyond the token only because means are kept in 16 bits; these lose a sixteenth of it."""
_DENSITIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Upper ends of the classes of the density histogram."""


class Tally:
    """Sums over rows, document by document: all that a report is made of. Those of several parts can be added up."""

    def __init__(self, atoms: int, coding: Coding) -> None:
        self.coding = coding
        self.sums = DocumentSums()
        self.left_out: Counter[str] = Counter()
        self.unexplained: list[Tensor] = []
        """Of every decomposed row."""
        self.usage = torch.zeros(atoms, dtype=torch.int64)
        """How many codes have each atom."""
        self.names: list[str] = []
        """Of the reconstructions, the dictionary's first."""
        self.route = ""

    def add(self, other: "Tally") -> None:
        """Add what was measured on other documents with the same dictionary."""
        self.sums.extend(other.sums)
        self.left_out.update(other.left_out)
        self.unexplained += other.unexplained
        self.usage += other.usage
        self.names, self.route = other.names, other.route

    def save(self, folder: Path) -> None:
        """Write it to a folder.

        Raises: OutputError.
        """
        facts = {
            "coding": self.coding.to_dict(),
            "documents": self.sums.documents,
            "left_out": dict(self.left_out),
            "names": self.names,
            "route": self.route,
        }
        sums = {name: torch.from_numpy(column) for name, column in self.sums.table().items()}
        rows = {"unexplained": torch.cat([torch.empty(0), *self.unexplained]), "usage": self.usage}
        files.write_folder(folder, _KIND, facts, {"sums": sums, "rows": rows}, overwrite=True)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The inverse of `save`.

        Raises: FormatError if anything in the folder is missing or damaged.
        """
        facts, tensors = files.read_folder(folder, _KIND)
        with files.parsing(folder):
            tally = cls(len(tensors["rows"]["usage"]), Coding.from_dict(facts["coding"]))
            columns = {name: tensor.numpy() for name, tensor in tensors["sums"].items()}
            tally.sums = DocumentSums.of(facts["documents"], columns)
            tally.left_out, tally.names, tally.route = Counter(facts["left_out"]), facts["names"], facts["route"]
            tally.unexplained, tally.usage = [tensors["rows"]["unexplained"]], tensors["rows"]["usage"]
            tally.check()
        return tally

    def check(self) -> None:
        """Refuse sums that no measurement gives.

        Raises: KeyError, TypeError or ValueError.
        """
        table = self.sums.table()
        if any(len(column) != len(self.sums) for column in table.values()):
            raise ValueError("its columns are not of the same documents")
        if self.usage.ndim != 1 or any(part.ndim != 1 for part in self.unexplained):
            raise ValueError("its rows are no rows")
        if bool((self.usage < 0).any()) or bool((self.usage > int(table["count"].sum())).any()):
            raise ValueError("its atoms are used by more rows than there are")
        one = {name: np.ones_like(column[0]) for name, column in table.items()}
        for name in self.names:
            vars(_scores(one, name)), vars(_scores(one, OWN, f", {EVERY}"))

    def report(self, *, model: str, site: str, excluded: int, resamples: int, seed: int) -> Report:
        """Everything, once all windows are taken."""
        table = self.sums.table()
        totals = {name: column.sum(0) for name, column in table.items()}
        if not totals["count"]:
            raise CorpusError("Every held-out token is special or a sink, so nothing was decomposed. Give more text.")
        scores = _scores(totals, OWN)
        intervals = {}
        for name, value in vars(scores).items():
            if value is None:
                continue

            def measure(drawn: Totals, name: str = name) -> float:
                return float(getattr(_scores(drawn, OWN), name))

            ends = interval(measure, table, resamples=resamples, seed=seed)
            if ends is not None:
                intervals[name] = ends
        shares = torch.cat(self.unexplained).double().numpy()
        count = int(totals["count"])
        has_loss = "loss" in totals
        predictions = int(totals["predictions"]) if has_loss else 0

        def loss(name: str) -> float | None:
            return float(totals[name] / totals["predictions"]) if name in totals else None

        found = Report(
            model=model,
            site=site,
            atoms=len(self.usage),
            coding=self.coding.to_dict(),
            route=self.route,
            tokens=count,
            predictions=predictions,
            documents=len(self.sums),
            excluded_documents=excluded,
            not_decomposed=dict(self.left_out),
            scores=scores,
            intervals=intervals,
            baselines={name: _scores(totals, name) for name in self.names if name != OWN},
            everything_replaced=_scores(totals, OWN, f", {EVERY}") if any(self.left_out.values()) else None,
            loss=loss("loss"),
            loss_zero=loss("loss zero"),
            loss_mean=loss("loss mean"),
            l0=float(self.usage.sum()) / count,
            cosine=float(totals["cosine"]) / count,
            norm_ratio=float(totals["norm ratio"]) / count,
            shrinkage=_ratio(totals["rebuilt energy"], totals["agreement"]),
            unexplained={
                "mean": float(shares.mean()),
                **{f"{quantile:.0%}": float(np.quantile(shares, quantile)) for quantile in _QUANTILES},
            },
            atoms_never_used=int((self.usage == 0).sum()),
            atoms_used_everywhere=int((self.usage * 2 >= count).sum()),
            density=density(self.usage, count),
        )
        logs.metrics(f"evaluate/{site}", {**vars(scores), "l0": found.l0, "loss": found.loss})
        return found


class Measurement:
    """What a dictionary makes of rows that come in blocks."""

    def __init__(self, dictionary: Dictionary, coding: Coding, backend: str, replacements: Replacements) -> None:
        self.dictionary, self.coding, self.backend = dictionary, coding, backend
        self.replacements = replacements
        self.tally = Tally(len(dictionary), coding)

    def take(self, rows: Tensor, token_ids: Tensor, documents: Sequence[str], keep: Tensor) -> dict[str, Tensor]:
        """Add rows float32 (n, D) to the sums.

        Args:
            rows: activations.
            token_ids: of their tokens (n,).
            documents: the id of each row's document.
            keep: which rows are decomposed, bool (n,); the others count for "every token" only.
        Returns: their reconstructions by name, the dictionary's first.
        """
        codes = self.dictionary.encode(rows, coding=self.coding, backend=self.backend)
        tally = self.tally
        tally.route = codes.route
        rebuilt = {OWN: self.dictionary.decode(codes), **self.replacements.plain(rows, token_ids)}
        tally.names = list(rebuilt)
        means = self.dictionary.token_means
        beyond = rows - means.of(token_ids) if means is not None else None
        cosine = torch.nn.functional.cosine_similarity(rows, rebuilt[OWN], dim=1)
        centred, own_part = rows - self.dictionary.mean, rebuilt[OWN] - self.dictionary.mean
        lengths = torch.linalg.vector_norm(own_part, dim=1) / torch.linalg.vector_norm(centred, dim=1)
        kept = {
            "norm ratio": lengths.nan_to_num(nan=1.0, posinf=1.0),
            "rebuilt energy": own_part.double().square().sum(1),
            "agreement": (own_part.double() * centred.double()).sum(1),
        }
        # Of each row first: a sum over all of them at once would be another one with another number of threads
        exact = rows.double()
        every_row = {
            "energy": exact.square().sum(1),
            "cosine": cosine,
            **({} if beyond is None else {"beyond token": beyond.double().square().sum(1)}),
            **{f"error {name}": (exact - other.double()).square().sum(1) for name, other in rebuilt.items()},
        }
        place = {document: index for index, document in enumerate(dict.fromkeys(documents))}
        owner = torch.tensor([place[document] for document in documents], dtype=torch.int64)
        for document, index in place.items():
            for which, mine in (("", keep & (owner == index)), (f", {EVERY}", owner == index)):
                values: dict[str, Any] = {f"count{which}": int(mine.sum()), f"sum{which}": exact[mine].sum(0).numpy()}
                values |= {f"{name}{which}": float(value[mine].sum()) for name, value in every_row.items()}
                if not which:
                    values |= {name: float(value[mine].sum()) for name, value in kept.items()}
                tally.sums.add(document, **values)
        tally.unexplained.append(codes.unexplained[keep])
        tally.usage += codes[keep].usage(len(self.dictionary))
        return rebuilt


def _scores(totals: Totals, name: str, which: str = "") -> Scores:
    """The scores of one reconstruction from sums over documents, for the decomposed tokens or for every one."""
    error, energy = totals[f"error {name}{which}"], totals[f"energy{which}"]
    spread = energy - np.square(totals[f"sum{which}"]).sum() / totals[f"count{which}"]
    beyond = totals.get(f"beyond token{which}")
    losses: dict[str, float] = {}
    if "loss" in totals:
        clean, own = totals["loss"], totals[f"loss {name}{which}"]
        zero, mean = totals[f"loss zero{which}"], totals.get(f"loss mean{which}")
        losses = {
            "delta_ce": float((own - clean) / totals["predictions"]),
            "ce_score": _ratio(own - zero, clean - zero),
            **({} if mean is None else {"ce_score_mean": _ratio(own - mean, clean - mean)}),
            "kl": float(totals[f"kl {name}{which}"] / totals["predictions"]),
        }
    return Scores(
        # What the subtraction leaves of equal rows is rounding
        fvu=_ratio(error, spread if spread > _ROUNDING * energy else 0.0),
        # Where the token decides the activation, as before the first layer, nothing is beyond it
        residual_fvu=None if beyond is None else _ratio(error, beyond if beyond > _ROUNDING_OF_MEANS * spread else 0.0),
        **losses,
    )


def density(usage: Tensor, rows: int) -> dict[str, int]:
    """How many atoms are in which share of the codes.

    Args:
        usage: in how many codes each atom is, int64 (A,).
        rows: how many codes there are.
    Returns: class such as `0.001 to 0.01` (the upper end belongs to it) -> atoms; `never` for those in no code.
    """
    ends = torch.tensor(_DENSITIES, dtype=torch.float64)
    used = usage[usage > 0].double() / rows
    counts = torch.bincount(torch.searchsorted(ends, used), minlength=len(ends)).tolist()
    names = [f"up to {ends[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(_DENSITIES))]
    return {"never": int((usage == 0).sum()), **dict(zip(names, counts, strict=True))}


def _ratio(part: Any, total: Any) -> float:
    """NaN where there is nothing to divide by, as for a single row."""
    return float(part / total) if total else float("nan")

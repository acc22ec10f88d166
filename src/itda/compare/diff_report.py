"""What a diff of two models found, for a person and for JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor

from itda.compare.known import known, write_json
from itda.compare.outputs import Outputs, Place
from itda.data.dictionary import Dictionary
from itda.data.sources import Source
from itda.shown import Quote, Shown, printable

Side = Literal["base", "tuned"]
OWN = 0.25
"""Of an atom that one model uses more, the share the other has by latent scaling, below which it is that one's own."""
LISTED = 12
"""Atoms that are shown, and listed whether they were tested or not: those that come first."""
_PLACES = 12


@dataclass(frozen=True, kw_only=True)
class ChangedAtom:
    """An atom that was tested, or comes first."""

    atom: int
    source: Source
    taken_from: Side | None
    """Of an atom of both models' dictionary, whose activation it is."""
    more_in: Side
    """Which model uses it more."""
    frequency: tuple[float, float]
    """Share of tokens whose code has it: base, tuned."""
    size: tuple[float, float]
    """Mean size of its coefficient where it is used, none counted as more than three medians: base, tuned."""
    distance: float
    """Mean squared distance of the two models' activations at tokens that use it, in usual ones."""
    p: float
    """NaN for one that was not tested."""
    q: float
    """p, adjusted for all that were tested."""
    changed: bool
    """q is at most the rate that was asked for."""
    shared: float
    """How much of it the other model has at these tokens, by latent scaling: about 1 as much, about 0 nothing."""
    shared_interval: tuple[float, float]
    """95 % of it, by drawing documents; NaN for an atom that one document alone has."""
    contexts: tuple[tuple[str, str, str], ...]
    """Before, token, after: where the model that uses it more does so the most."""

    @property
    def only_in(self) -> Side | None:
        """The model whose own it is: the other surely has less than a quarter of it, however its codes write it."""
        return self.more_in if self.shared_interval[1] < OWN else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names = (
            "atom",
            "taken_from",
            "more_in",
            "frequency",
            "size",
            "distance",
            "p",
            "q",
            "changed",
            "shared",
            "shared_interval",
            "only_in",
        )
        facts = {name: getattr(self, name) for name in names}
        return {**facts, "source": self.source.to_dict(), "contexts": [list(context) for context in self.contexts]}


@dataclass(frozen=True, eq=False, kw_only=True)
class AtomChanges:
    """The atoms of one dictionary, in the order in which a person should read them."""

    dictionary: Dictionary
    fvu: tuple[float, ...]
    """Of the base and the tuned model's held-out activations."""
    order: Tensor
    """int64 (A,): all atoms, tested or not."""
    tested: int
    atoms: tuple[ChangedAtom, ...]
    """Those that were tested, and the first of all, in that order."""

    @property
    def changed(self) -> tuple[ChangedAtom, ...]:
        """Those of which the test says so."""
        return tuple(atom for atom in self.atoms if atom.changed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "fingerprint": self.dictionary.fingerprint,
            "size": len(self.dictionary),
            "fvu": self.fvu,
            "tested": self.tested,
            "order": self.order.tolist(),
            "atoms": [atom.to_dict() for atom in self.atoms],
        }


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Diff(Shown):
    """The answer of `compare.diff`."""

    WIDTH = 140

    models: tuple[str, str]
    site: str
    corpus: str
    documents: tuple[int, int]
    """To choose on, to test on."""
    tokens: tuple[int, int]
    """Of each model: to choose on, to test on."""
    margin: float
    apart: float
    rate: float
    joint: AtomChanges
    """With a dictionary of both models."""
    own: Mapping[str, AtomChanges]
    """With a dictionary of "base" and with one of "tuned"."""
    mean_difference: Tensor
    """float32 (D,): mean activation of the tuned model less that of the base: a plain baseline."""
    mean_shift: float
    """Its length, in usual lengths of an activation about the mean."""
    outputs: Outputs | None
    """Differences of what the models predict; None if one predicts nothing."""
    places: tuple[Place, ...]
    """Where the two differ most, one place of a document."""

    @property
    def by_mean_difference(self) -> Tensor:
        """int64 (A,): atoms of the joint dictionary, those along the difference of means first: a baseline."""
        along: Tensor = (self.joint.dictionary.atoms @ self.mean_difference).abs()
        return along.argsort(descending=True, stable=True)

    @property
    def by_logits(self) -> Tensor | None:
        """int64 (A,): the same atoms, those at work where predictions differ most first: another baseline."""
        return self.outputs.by_atom.argsort(descending=True, stable=True) if self.outputs else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for a page."""
        names = ("models", "site", "corpus", "documents", "tokens", "margin", "apart", "rate", "mean_shift")
        outputs = None
        if self.outputs:
            outputs = {name: getattr(self.outputs, name) for name in ("kl", "tokens", "raised", "lowered")}
        orders = {"mean difference": self.by_mean_difference.tolist()}
        if self.by_logits is not None:
            orders["logits"] = self.by_logits.tolist()
        facts = {
            **{name: getattr(self, name) for name in names},
            "joint": self.joint.to_dict(),
            "own": {name: table.to_dict() for name, table in self.own.items()},
            "outputs": outputs,
            "baseline_orders": orders,
            "places": [place._asdict() for place in self.places],
        }
        found: dict[str, Any] = known(facts)
        return found

    def save(self, path: str | Path) -> Path:
        """Write all of it but the dictionaries as JSON.

        Raises: OutputError if it cannot be written.
        """
        return write_json(path, "diff", self.to_dict())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"{self.models[0]} (base) and {self.models[1]} (tuned) at {self.site}", style="bold")
        yield (
            f"chosen on {self.tokens[0]:,} tokens of {self.documents[0]:,} documents, tested on {self.tokens[1]:,} of "
            f"{self.documents[1]:,}"
        )
        yield from _listed(self.joint, self.rate, self.margin, "both models' dictionary")
        for name, table in self.own.items():
            yield (
                f"{name}'s own dictionary: {len(table.changed):,} changed of {table.tested:,} tested, "
                f"FVU {table.fvu[0]:.3f} base, {table.fvu[1]:.3f} tuned"
            )
        yield f"difference of mean activations: {self.mean_shift:.3f} of the usual length of one"
        if self.outputs:
            yield f"difference of predictions: KL {self.outputs.kl:.4f} nats a token"
            for name, words in (("likelier", self.outputs.raised), ("less likely", self.outputs.lowered)):
                yield Text(f"  {name}: {' '.join(repr(printable(word)) for word, _ in words[:8])}")
        yield Text("where they differ most", style="bold")
        for place in self.places[:_PLACES]:
            now = f"{printable(place.likelier)!r}" if place.likelier else ""
            head = Text(f"{place.difference:>8.3f}  {now:<12}  ")
            yield Quote(place.before[-60:], place.token, place.after[:20], head=head)


def _listed(table: AtomChanges, rate: float, margin: float, name: str) -> RenderResult:
    changed = table.changed
    yield (
        f"{name}: {len(changed):,} of {len(table.dictionary):,} atoms changed by more than {margin:.0%}, where the "
        f"models are unusually far apart"
    )
    yield (
        f"  {table.tested:,} tested, at most {rate:.0%} of the changed ones false; FVU {table.fvu[0]:.3f} base, "
        f"{table.fvu[1]:.3f} tuned; changed ones first, then by how far apart the models are"
    )
    shown = Table(show_edge=False, pad_edge=False, expand=True)
    for heading in ("atom", "tokens with it", "size", "other has", "apart", "changed", "q"):
        shown.add_column(heading, justify="right")
    shown.add_column("what it is, and where it is used most", no_wrap=True, overflow="ellipsis", ratio=1)
    for atom in table.atoms[:LISTED]:
        used = [Quote(before[-50:], token, after[:15], head=Text("  "), style="dim")
                for before, token, after in atom.contexts[:2]]  # fmt: skip
        lines = Group(Quote.of(atom.source.shortened(50, 10)), *used)
        shown.add_row(
            str(atom.atom), "{:.2%} → {:.2%}".format(*atom.frequency), "{:.2f} → {:.2f}".format(*atom.size),
            _share(atom.shared) + (f", only {atom.only_in}" if atom.only_in else ""), f"{atom.distance:.1f}",
            "yes" if atom.changed else "", "" if math.isnan(atom.q) else f"{atom.q:.4f}", lines,
        )  # fmt: skip
    yield shown
    if len(changed) > LISTED:
        yield f"... and {len(changed) - LISTED:,} more in to_dict()"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"

"""What was seen of a training run, for a person and for JSON."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from itda.compare.known import known, write_json
from itda.data.dictionary import Dictionary
from itda.data.sources import Source
from itda.options import one_of
from itda.shown import Quote, Shown

_RESAMPLES = 1000
_SHOWN_LAYERS = 8
_A_BIRTH = 4  # atoms that are shown of those born at one checkpoint
Ends = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One state of the model."""

    name: str
    overlap: float
    """Of its own dictionary with the last one's, beyond chance."""
    fvu: float
    """Of its held-out activations, with the last one's atoms carried over."""
    layers: dict[str, dict[str, float]]
    """Measure -> place -> how alike its layer is to the same layer of the last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class FollowedAtom:
    """One atom through all C checkpoints."""

    atom: int
    source: Source
    tokens: int
    """Held-out tokens whose code has it at the last checkpoint."""
    found: tuple[float, ...]
    """(C,): how well the cosine with it finds these tokens among any others, area under the curve; 0.5 by chance."""
    told: tuple[float, ...]
    """(C,): the same among the tokens of its nearest atoms."""
    born: int
    """Index of the first checkpoint from which on `told` is at least halfway from 0.5 to what it is at last, on every
    other document; dated on the others, of which `told` is too."""
    interval: tuple[int, int]
    """95 % of it, by drawing documents; C where not even the last checkpoint tells it in some draws."""
    costs: tuple[Ends, ...] | None
    """(C,): rise of the loss of the next token, in nats, where an activation is left without its part along the atom,
    and without as much along another one. None if it was not tried."""
    needed: int | None
    """Index of the first checkpoint from which on leaving it out costs at least half of what it does at last, beyond
    another one; None where that was not tried, or is not surely above 0 at last."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names = ("atom", "tokens", "found", "told", "born", "interval", "costs", "needed")
        facts = {name: getattr(self, name) for name in names}
        return {**facts, "source": self.source.to_dict()}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TrainingRun(Shown):
    """The answer of `compare.follow`."""

    model: str
    site: str
    dictionary: Dictionary
    """Of the last checkpoint."""
    tokens: int
    documents: int
    """Held out, on which atoms were followed."""
    checkpoints: tuple[Checkpoint, ...]
    unwatched: int
    """Atoms that too few held-out tokens use, or that even the last checkpoint does not tell from their nearest."""
    atoms: tuple[FollowedAtom, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the checkpoints."""
        return tuple(checkpoint.name for checkpoint in self.checkpoints)

    @property
    def births(self) -> tuple[int, ...]:
        """How many atoms are born at each checkpoint."""
        counts = Counter(atom.born for atom in self.atoms)
        return tuple(counts[index] for index in range(len(self.checkpoints)))

    def settled(self, measure: str = "overlap") -> dict[str, float | None]:
        """Of each layer, when it is halfway from what it is at the first checkpoint to what it is at last, for good.

        In checkpoints, counted from 0 and interpolated: 1.5 is between the second and the third. None where it does not
        change, or where a value is unknown.
        """
        one_of("measure", measure, tuple(self.checkpoints[0].layers))
        return {
            site: _settled([checkpoint.layers[measure][site] for checkpoint in self.checkpoints])
            for site in self.checkpoints[0].layers[measure]
        }

    def cost_of_birth(self, *, seed: int = 0) -> dict[str, tuple[float, Ends]] | None:
        """Mean cost of leaving out an atom, beyond that of another one, at its last checkpoint before birth and at the
        first one after, and the rise.

        All atoms cost more as a model learns to use them, so it stands beside those born at other times: "rise beyond
        others" is the difference of the two rises, "before, to others" and "after, to others" are the ratios of the
        costs, and "rise, to others" is that of these. Each with 95 % by drawing atoms with replacement. None if fewer
        than two were tried.
        """
        tried = [atom for atom in self.atoms if atom.costs]
        costs = np.array([[own - other for own, other in atom.costs or ()] for atom in tried])
        born = np.array([atom.born for atom in tried])
        values = []
        for at, own in zip(born, costs, strict=True):
            if at and (born != at).any():
                values.append((*own[at - 1 : at + 1], *np.nanmean(costs[born != at, at - 1 : at + 1], axis=0)))
        table = np.array([row for row in values if not np.isnan(row).any()])
        if len(table) < 2:
            return None
        drawn = np.random.default_rng(seed).integers(0, len(table), (_RESAMPLES, len(table)))
        with np.errstate(divide="ignore", invalid="ignore"):  # the others may cost nothing
            found = _birth_figures(*table.mean(0))
            spread = _birth_figures(*table[drawn].mean(1).T)
        return {
            name: (float(found[name]), (float(low), float(high)))
            for name, (low, high) in ((name, np.percentile(spread[name], [2.5, 97.5])) for name in found)
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for a page."""
        names = ("model", "site", "tokens", "documents", "names", "births", "unwatched")
        measures = self.checkpoints[0].layers
        facts = {
            **{name: getattr(self, name) for name in names},
            "fingerprint": self.dictionary.fingerprint,
            "checkpoints": [vars(checkpoint) for checkpoint in self.checkpoints],
            "settled": {measure: self.settled(measure) for measure in measures},
            "cost_of_birth": self.cost_of_birth(),
            "atoms": [atom.to_dict() for atom in self.atoms],
        }
        found: dict[str, Any] = known(facts)
        return found

    def save(self, path: str | Path) -> Path:
        """Write all of it but the dictionary as JSON.

        Raises: OutputError if it cannot be written.
        """
        return write_json(path, "checkpoints", self.to_dict())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"{self.model} through {len(self.checkpoints)} checkpoints, at {self.site}", style="bold")
        yield f"{len(self.atoms):,} atoms of the last one on {self.tokens:,} tokens of {self.documents:,} documents"
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("checkpoint", no_wrap=True)
        needed = Counter(atom.needed for atom in self.atoms if atom.needed is not None)
        for heading in ("born", *(["needed"] if needed else []), "own atoms shared", "FVU, carried over"):
            table.add_column(heading, justify="right")
        sites = self.checkpoints[0].layers["overlap"]
        few = np.unique(np.linspace(0, len(sites) - 1, _SHOWN_LAYERS).round().astype(int))
        shown_sites = [list(sites)[place] for place in few]
        for site in shown_sites:
            table.add_column(site.rpartition(".")[2], justify="right")
        for index, (checkpoint, births) in enumerate(zip(self.checkpoints, self.births, strict=True)):
            layers = (f"{checkpoint.layers['overlap'][site]:.2f}" for site in shown_sites)
            numbers = (f"{checkpoint.overlap:.3f}", f"{checkpoint.fvu:.3f}")
            from_here = [str(needed[index])] if needed else []
            table.add_row(checkpoint.name, str(births), *from_here, *numbers, *layers)
        yield table
        yield f"{self.unwatched:,} more atoms are too rare, or not told from their nearest ones even at last"
        listed = ", ".join(site.rpartition(".")[2] for site in shown_sites)
        yield f"columns {listed}: overlap of that layer with the same one of the last checkpoint"
        for measure in self.checkpoints[0].layers:
            halfway = [(at, site.rpartition(".")[2]) for site, at in self.settled(measure).items() if at is not None]
            if halfway:
                listed = ", ".join(f"{layer} at {at:.1f}" for at, layer in sorted(halfway))
                yield f"halfway there by {measure}, in checkpoints from 0: layer {listed}"
        if (costs := self.cost_of_birth()) is not None:
            shown = {name: f"{value:.3f} ({low:.3f} to {high:.3f})" for name, (value, (low, high)) in costs.items()}
            yield f"leaving an atom out costs {shown['before']} nats before its birth, {shown['after']} after"
            yield f"it rises by {shown['rise beyond others']} more than that of atoms born at other times,"
            yield f"from {shown['before, to others']} of what these cost to {shown['after, to others']} of it"
        for index, name in enumerate(self.names):
            born = sorted((atom for atom in self.atoms if atom.born == index), key=lambda atom: -atom.tokens)
            if born:
                yield Text(f"born at {name}: {len(born):,}", style="bold")
            for atom in born[:_A_BIRTH]:
                low, high = ((*self.names, "never")[end] for end in atom.interval)
                when = "" if low == high else f"({low} to {high})  "
                yield Quote(*atom.source.quoted(60, 15), head=Text(f"{atom.atom:>6}  {when}"))


def _birth_figures(before: Any, after: Any, others_before: Any, others_after: Any) -> dict[str, Any]:
    """Of the mean costs of atoms and of those born at other times."""
    return {
        "before": before,
        "after": after,
        "rise": after - before,
        "rise beyond others": after - before - (others_after - others_before),
        "before, to others": before / others_before,
        "after, to others": after / others_after,
        "rise, to others": after / others_after - before / others_before,
    }


def _settled(curve: list[float]) -> float | None:
    if not np.isfinite(curve).all() or curve[0] == curve[-1]:
        return None
    way = (np.array(curve) - curve[0]) / (curve[-1] - curve[0])
    last = int(np.flatnonzero(way < 0.5)[-1])
    return float(last + (0.5 - way[last]) / (way[last + 1] - way[last]))

"""Figures of results for papers, with matplotlib (extra `plots`): one style, light or dark, colour-blind safe."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec

import numpy as np

from itda.compare.layer_matching import LayerMatrix
from itda.compare.model_matrices import ModelMatrix
from itda.compare.run_report import TrainingRun
from itda.data.drafts import refused
from itda.data.files import check_file
from itda.errors import MissingExtraError, OptionError
from itda.evaluation.report import Report
from itda.explaining import Explanation
from itda.html import MINUS, PLUS
from itda.options import one_of
from itda.shown import printable
from itda.steer.sweeping import Sweep
from itda.view.records import Records

Theme = Literal["light", "dark"]
_COLOURS = "viridis"  # one order in grey and for every kind of colour vision
_INCHES_A_LAYER = 0.28
_SMALL = {"fontsize": 7, "title_fontsize": 8}
_BINS = 24
_GROUND = {"light": ("white", "#1b1f24"), "dark": ("#14171a", "#e7eaee")}
_ON_DARK = {PLUS: "#56B4E9", MINUS: "#E69F00"}  # of the same pairs, light enough for a dark ground
P = ParamSpec("P")


def _themed(draw: Callable[P, Any]) -> Callable[P, Any]:
    """A figure in the one style of all, on the ground that `theme=` names."""

    @wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> Any:
        theme = str(options.get("theme", "light"))
        one_of("theme", theme, tuple(_GROUND))
        with _pyplot().rc_context(_style(theme)):
            return draw(*args, **options)

    return drawn


def _style(theme: str) -> dict[str, Any]:
    ground, ink = _GROUND[theme]
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor")
    return {
        **dict.fromkeys(inks, ink),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), ground),
        "axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "legend.frameon": False,
    }  # fmt: skip


def _colour(colour: str, theme: Theme) -> str:
    return _ON_DARK[colour] if theme == "dark" else colour


@_themed
def layer_heatmap(matrix: LayerMatrix, *, theme: Theme = "light") -> Any:
    """How alike all layers of some models are, as one picture: a matplotlib Figure.

    Raises: MissingExtraError without matplotlib.
    """
    count = len(matrix.sites)
    side = max(3.5, _INCHES_A_LAYER * count + 1.5)
    figure, axes = _pyplot().subplots(figsize=(side + 0.9, side), layout="constrained")
    label = matrix.measure + (", whitened" if matrix.whiten else "")
    _square(figure, axes, matrix.values, [site.rpartition(".")[2] for site in matrix.sites], label)
    line = _GROUND[theme][0]
    for model, places in matrix.layers.items():
        middle = float(np.mean(places))
        name = Path(model).name
        axes.text(middle, -1.4, name, ha="center", va="bottom", fontsize=8)
        axes.text(count + 0.2, middle, name, ha="left", va="center", rotation=-90, fontsize=8)
        if places[0]:
            axes.axhline(places[0] - 0.5, color=line, linewidth=1.2)
            axes.axvline(places[0] - 0.5, color=line, linewidth=1.2)
    kinds = {site.rpartition(".")[0] for site in matrix.sites}
    axes.set_xlabel(f"layer ({', '.join(sorted(kinds))})")
    axes.set_ylabel("layer")
    return figure


@_themed
def model_heatmap(matrix: ModelMatrix, *, theme: Theme = "light") -> Any:
    """How alike whole models are: a Figure.

    Raises: MissingExtraError without matplotlib.
    """
    side = max(3.0, 0.5 * len(matrix.models) + 1.5)
    figure, axes = _pyplot().subplots(figsize=(side + 0.9, side), layout="constrained")
    names = [Path(name).name for name in matrix.models]
    _square(figure, axes, matrix.values, names, "overlap beyond chance")
    axes.tick_params(axis="x", rotation=45)
    return figure


def _square(figure: Any, axes: Any, values: Any, names: list[str], label: str) -> None:
    shown = axes.imshow(values, cmap=_COLOURS, interpolation="nearest")
    figure.colorbar(shown, ax=axes, shrink=0.8, label=label)
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.spines[:].set_visible(False)


@_themed
def run_curves(run: TrainingRun, measure: str = "overlap", *, theme: Theme = "light") -> Any:
    """Layers of a training run beside those of its last checkpoint, how many atoms are born when, and how well those
    born at each checkpoint tell their tokens from those of their nearest atoms: a Figure.

    Raises: MissingExtraError without matplotlib; OptionError for a measure that was not taken.
    """
    if measure not in run.checkpoints[0].layers:
        raise OptionError(f"This run has {', '.join(run.checkpoints[0].layers)}. Got {measure!r}.")
    pyplot = _pyplot()
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
    sites = list(run.checkpoints[0].layers[measure])
    for site, colour in zip(sites, _shades(len(sites)), strict=True):
        curve = [checkpoint.layers[measure][site] for checkpoint in run.checkpoints]
        left.plot(run.names, curve, color=colour, marker="o", markersize=3, label=site.rpartition(".")[2])
    left.set_ylabel(f"{measure} with the last checkpoint")
    left.legend(title="layer", **_SMALL)
    colours = _shades(len(run.names))
    middle.bar(run.names, run.births, color=colours)
    middle.set_ylabel("atoms born")
    for index, (name, colour) in enumerate(zip(run.names, colours, strict=True)):
        told = [atom.told for atom in run.atoms if atom.born == index]
        if told:
            right.plot(run.names, np.mean(told, axis=0), color=colour, marker="o", markersize=3, label=name)
    right.set_ylabel("tells its tokens (area under the curve)")
    right.legend(title="born at", loc="upper left", bbox_to_anchor=(1, 1), **_SMALL)  # beside the curves
    for axes in (left, middle, right):
        axes.tick_params(axis="x", rotation=30)
    return figure


@_themed
def density(source: Records | Report, *, theme: Theme = "light") -> Any:
    """How often atoms are used: a Figure.

    Args:
        source: what pages are made of, or a report, whose classes of use are wider.
    Raises: MissingExtraError without matplotlib; OptionError without any code.
    """
    figure, axes = _pyplot().subplots(figsize=(4, 2.8), layout="constrained")
    colour = _colour(PLUS, theme)
    if isinstance(source, Report):
        axes.bar(list(source.density), list(source.density.values()), color=colour)
        axes.tick_params(axis="x", rotation=30, labelsize=7)
    else:
        shares = source.counts[source.counts > 0] / _tokens(source)
        axes.hist(shares, bins=np.geomspace(1 / len(source.tokens), 1, _BINS + 1), color=colour)
        axes.set_xscale("log")
    axes.set_xlabel("share of the tokens that use it")
    axes.set_ylabel("atoms")
    return figure


@_themed
def use(records: Records, *, theme: Theme = "light") -> Any:
    """How much of the energy of all codes the largest atoms carry: a Figure.

    Raises: MissingExtraError without matplotlib; OptionError without any code.
    """
    _tokens(records)
    figure, axes = _pyplot().subplots(figsize=(4, 2.8), layout="constrained")
    carried = np.cumsum(np.sort(records.energies)[::-1])
    axes.plot(np.arange(1, len(carried) + 1), carried, color=_colour(PLUS, theme))
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="so many atoms, the largest first", ylabel="share of the energy")
    return figure


@_themed
def coefficients(records: Records, atom: int, *, theme: Theme = "light") -> Any:
    """How large one atom's coefficients are where it is used: a Figure.

    Raises: MissingExtraError without matplotlib; OptionError for an atom that is not there.
    """
    values = records.coefficients_of(atom)
    figure, axes = _pyplot().subplots(figsize=(4, 2.8), layout="constrained")
    for colour, part in ((PLUS, values[values > 0]), (MINUS, values[values < 0])):
        if len(part):
            axes.hist(part, bins=_BINS, color=_colour(colour, theme))
    axes.set(xlabel="coefficient", ylabel="tokens", title=f"atom {atom}, {len(values):,} tokens")
    return figure


@_themed
def heads(records: Records, atom: int, *, theme: Theme = "light") -> Any:
    """How much of an atom is in each attention head: a Figure.

    Raises: OptionError for a dictionary that is not at `attn_heads`, or an atom that is not there.
    """
    records.uses_of(atom)  # refuses an atom that is not there
    if not records.heads.shape[1]:
        raise OptionError("Only atoms of attn_heads have shares by head.")
    figure, axes = _pyplot().subplots(figsize=(3.6, 2.4), layout="constrained")
    axes.bar(range(records.heads.shape[1]), records.heads[atom], color=_colour(PLUS, theme))
    axes.set_xticks(range(records.heads.shape[1]))
    axes.set_xlabel("head")
    axes.set_ylabel("share of its length squared")
    return figure


@_themed
def atom_map(records: Records, *, theme: Theme = "light") -> Any:
    """The atoms in two dimensions, those that are used more the larger: a Figure.

    Raises: MissingExtraError without matplotlib.
    """
    figure, axes = _pyplot().subplots(figsize=(4.6, 4.6), layout="constrained")
    sizes = 2 + 10 * np.sqrt(records.counts / max(int(records.counts.max()), 1))
    axes.scatter(*records.places.T, s=sizes, color=_colour(PLUS, theme), alpha=0.6, linewidths=0)
    axes.set(xticks=[], yticks=[], title=str(records.facts["map"]), aspect="equal")
    axes.title.set_fontsize(8)
    axes.spines[:].set_visible(False)
    return figure


@_themed
def explanation(explained: Explanation, *, theme: Theme = "light") -> Any:
    """How much of each token of a text is not explained: a Figure.

    Raises: MissingExtraError without matplotlib.
    """
    shares = [token.unexplained or 0.0 for token in explained.tokens]
    figure, axes = _pyplot().subplots(figsize=(max(4.0, 0.28 * len(shares)), 2.6), layout="constrained")
    axes.bar(range(len(shares)), shares, color=_colour(MINUS, theme))
    names = [printable(token.token)[:14] for token in explained.tokens]
    # A dollar sign begins a formula for matplotlib
    axes.set_xticks(
        range(len(names)), [name.replace("$", r"\$") for name in names], rotation=60, ha="right", fontsize=7
    )
    axes.set_ylabel("unexplained share")
    return figure


@_themed
def fidelity(reports: Mapping[str, Report], *, theme: Theme = "light") -> Any:
    """Several dictionaries side by side, with the token mean that the first was measured beside: a Figure.

    Args:
        reports: by the name that each shall have.
        theme: the ground.
    Raises: MissingExtraError without matplotlib; OptionError without any report.
    """
    if not reports:
        raise OptionError("A figure of fidelity needs at least one report. Got none.")
    figure, axes = _pyplot().subplots(figsize=(4.4, 0.4 * len(reports) + 1.2), layout="constrained")
    names = list(reports)
    axes.barh(names[::-1], [reports[name].fvu for name in names[::-1]], color=_colour(PLUS, theme))
    beside = next(iter(reports.values())).baselines.get("token mean")
    if beside is not None:
        axes.axvline(beside.fvu, color=_colour(MINUS, theme), linestyle="--", label="token mean")
        axes.legend(**{"fontsize": 7})
    axes.set_xlabel("FVU on held-out text")
    return figure


@_themed
def sweep(found: Sweep, *, theme: Theme = "light") -> Any:
    """What steering does and what it costs, for every site and strength, the recommendation framed: a Figure.

    Raises: MissingExtraError without matplotlib.
    """
    sites = list(dict.fromkeys(point.site for point in found.points))
    strengths = sorted({point.strength for point in found.points})
    effects, costs = (np.full((len(sites), len(strengths)), np.nan) for _ in range(2))
    for point in found.points:
        place = sites.index(point.site), strengths.index(point.strength)
        effects[place], costs[place] = point.effect, point.perplexity / found.plain_perplexity
    size = (2 * (1.6 + 0.55 * len(strengths)) + 1.5, 1.4 + 0.36 * len(sites))
    figure, both = _pyplot().subplots(1, 2, figsize=size, layout="constrained", sharey=True)
    titles = ("effect", "perplexity, times the plain one")
    for axes, values, title in zip(both, (effects, costs), titles, strict=True):
        shown = axes.imshow(values, cmap=_COLOURS, interpolation="nearest", aspect="auto")
        figure.colorbar(shown, ax=axes, shrink=0.9)
        axes.set_title(title)
        axes.set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
        axes.set_yticks(range(len(sites)), sites)
        axes.set_xlabel("strength")
        axes.spines[:].set_visible(False)
        if found.recommended is not None:
            row, column = sites.index(found.recommended.site), strengths.index(found.recommended.strength)
            frame = _pyplot().Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2)
            axes.add_patch(frame)
    return figure


def _shades(count: int) -> Any:
    return _pyplot().get_cmap(_COLOURS)(np.linspace(0.05, 0.9, count))


def _tokens(records: Records) -> int:
    if not len(records.tokens):
        raise OptionError("These pages were made without a text, so nothing says how often atoms are used.")
    return len(records.tokens)


def check(path: str | Path) -> Path:
    """A path to which a figure can be written, asked before the work that it is to show.

    Raises: OptionError for another ending than .svg, .png or .pdf; OutputError; MissingExtraError without matplotlib.
    """
    where = Path(path)
    if where.suffix not in (".svg", ".png", ".pdf"):
        raise OptionError(f"A plot is written as .svg, .png or .pdf. Got {where.name!r}.")
    check_file(where)
    _pyplot()
    return where


def save(figure: Any, path: str | Path) -> Path:
    """Write a figure as the ending says: .svg, .png or .pdf.

    Raises: OptionError for another ending; OutputError if it cannot be written.
    """
    where = check(path)
    try:
        figure.savefig(where, dpi=150, facecolor=figure.get_facecolor())
    except OSError as error:
        raise refused(where, error) from error
    finally:
        _pyplot().close(figure)
    return where


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("A plot", "plots") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot

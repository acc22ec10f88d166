"""Figures of results, with matplotlib (extra `plots`)."""

from pathlib import Path
from typing import Any

import numpy as np

from itda.compare.layer_matching import LayerMatrix
from itda.compare.run_report import TrainingRun
from itda.data.files import check_file, refused
from itda.errors import MissingExtraError, OptionError

_COLOURS = "viridis"  # one order in grey and for every kind of colour vision
_INCHES_A_LAYER = 0.28


def layer_heatmap(matrix: LayerMatrix) -> Any:
    """How alike all layers of some models are, as one picture: a matplotlib Figure.

    Raises: MissingExtraError without matplotlib.
    """
    pyplot = _pyplot()
    count = len(matrix.sites)
    side = max(3.5, _INCHES_A_LAYER * count + 1.5)
    figure, axes = pyplot.subplots(figsize=(side + 0.9, side), layout="constrained")
    shown = axes.imshow(matrix.values, cmap=_COLOURS, interpolation="nearest")
    figure.colorbar(shown, ax=axes, shrink=0.8, label=matrix.measure + (", whitened" if matrix.whiten else ""))
    labels = [site.rpartition(".")[2] for site in matrix.sites]
    axes.set_xticks(range(count), labels, fontsize=7)
    axes.set_yticks(range(count), labels, fontsize=7)
    for model, places in matrix.layers.items():
        middle = float(np.mean(places))
        name = Path(model).name
        axes.text(middle, -1.4, name, ha="center", va="bottom", fontsize=8)
        axes.text(count + 0.2, middle, name, ha="left", va="center", rotation=-90, fontsize=8)
        if places[0]:
            axes.axhline(places[0] - 0.5, color="white", linewidth=1.2)
            axes.axvline(places[0] - 0.5, color="white", linewidth=1.2)
    kinds = {site.rpartition(".")[0] for site in matrix.sites}
    axes.set_xlabel(f"layer ({', '.join(sorted(kinds))})")
    axes.set_ylabel("layer")
    return figure


def run_curves(run: TrainingRun, measure: str = "overlap") -> Any:
    """Layers of a training run beside those of its last checkpoint, how many atoms are born when, and how well those
    born at each checkpoint tell their tokens from those of their nearest atoms: a Figure.

    Raises: MissingExtraError without matplotlib; OptionError for a measure that was not taken.
    """
    if measure not in run.checkpoints[0].layers:
        raise OptionError(f"This run has {', '.join(run.checkpoints[0].layers)}. Got {measure!r}.")
    pyplot = _pyplot()
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
    sites = list(run.checkpoints[0].layers[measure])
    colours = pyplot.get_cmap(_COLOURS)(np.linspace(0.05, 0.9, len(sites)))
    for site, colour in zip(sites, colours, strict=True):
        curve = [checkpoint.layers[measure][site] for checkpoint in run.checkpoints]
        left.plot(run.names, curve, color=colour, marker="o", markersize=3, label=site.rpartition(".")[2])
    left.set_ylabel(f"{measure} with the last checkpoint")
    left.legend(title="layer", fontsize=7, title_fontsize=8)
    colours = pyplot.get_cmap(_COLOURS)(np.linspace(0.05, 0.9, len(run.names)))
    middle.bar(run.names, run.births, color=colours)
    middle.set_ylabel("atoms born")
    for index, (name, colour) in enumerate(zip(run.names, colours, strict=True)):
        told = [atom.told for atom in run.atoms if atom.born == index]
        if told:
            right.plot(run.names, np.mean(told, axis=0), color=colour, marker="o", markersize=3, label=name)
    right.set_ylabel("tells its tokens (area under the curve)")
    right.legend(
        title="born at", fontsize=7, title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1)
    )  # beside the curves
    for axes in (left, middle, right):
        axes.tick_params(axis="x", rotation=30)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


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
        figure.savefig(where, dpi=150)
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

"""Plots of what a dictionary costs and what it is worth."""

import statistics
from pathlib import Path
from typing import Any

from cells import Cell

DOCS = Path(__file__).parent.parent / "docs"
# method, coding -> label, colour, marker
LINES = {
    ("paper", "plain"): ("paper mode, its best threshold", "#999999", "x"),
    ("random", "default"): ("random activations", "#bbbbbb", "."),
    ("token_means", "default"): ("means of tokens", "#555555", "+"),
    ("budget", "default"): ("budget: real activations", "#1f6f8b", "o"),
    ("mixture", "default"): ("mixture: of five named ones", "#2ca25f", "s"),
    ("learned", "default"): ("learned: no names", "#7b3294", "^"),
    ("topk", "own"): ("TopK SAE", "#d95f02", "D"),
    ("batchtopk", "own"): ("BatchTopK SAE", "#e6a15c", "d"),
    ("pursuit on topk", "equal"): ("pursuit on the TopK decoder", "#a63603", "v"),
}


def draw(cells: list[Cell]) -> None:
    """Worth against L0, and against the seconds it took to make and to encode a million tokens, for each model."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "itda"
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator

    models = list(dict.fromkeys(cell["model"] for cell in cells if (cell["method"], cell["coding"]) in LINES))
    figure, axes = pyplot.subplots(
        2, len(models), figsize=(3.4 * len(models), 6.4), layout="constrained", squeeze=False
    )
    for column, model in enumerate(models):
        worth = "delta_ce" if any("delta_ce" in cell for cell in cells if cell["model"] == model) else "residual_fvu"
        for (method, coding), (label, colour, marker) in LINES.items():
            points = medians([cell for cell in cells if cell["model"] == model], method, coding, worth)
            for row, x in enumerate(("l0", "total")):
                axes[row][column].plot(
                    [point[x] for point in points], [point[worth] for point in points], marker, linestyle="-",
                    color=colour, label=label, linewidth=1, markersize=4,
                )  # fmt: skip
        for row, name in enumerate(("L0", "seconds to make it and encode 1 M tokens")):
            panel = axes[row][column]
            panel.set_xscale("log")
            panel.set_yscale("log")
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_locator(NullLocator())
            panel.grid(alpha=0.3)
            panel.set_xlabel(name, fontsize=8)
            panel.tick_params(labelsize=7)
            if row == 0:
                panel.set_title(model, fontsize=9)
            panel.set_ylabel({"delta_ce": "ΔCE, nats", "residual_fvu": "residual FVU"}[worth], fontsize=8)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(DOCS / "fidelity_fronts.svg", metadata={"Date": None})


def medians(cells: list[Cell], method: str, coding: str, worth: str) -> list[dict[str, Any]]:
    """One point for each number of steps: medians over seeds; of paper mode the best threshold for each seed."""
    points = []
    for steps in sorted({cell["steps"] for cell in cells}):
        own = [cell for cell in cells if cell["steps"] == steps and cell["coding"] == coding]
        own = [cell for cell in own if cell["method"].partition(",")[0] == method]
        best = [min((cell for cell in own if cell["seed"] == seed), key=lambda cell: cell[worth])
                for seed in sorted({cell["seed"] for cell in own})]  # fmt: skip
        if best:
            points.append(
                {
                    "l0": statistics.median(cell["l0"] for cell in best),
                    worth: statistics.median(cell[worth] for cell in best),
                    "total": statistics.median(cell["seconds"] + cell["seconds_a_million"] for cell in best),
                }
            )
    return points

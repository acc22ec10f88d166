"""What was aimed at, and what was measured: one table from the results of the other benchmarks of fidelity.

python benchmarks/bench_bars.py

Bars are for K of 3, 6 and 12 % of the width; beside autoencoders for all up to 6 %. "Worst" is over models and K.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from common import RESULTS, report

Row = dict[str, Any]
SMALL = ("stories260k", "babyllama-char105", "babyllama-char361", "seeds/gpt2-s21")
GROUPS = {"width 64 and 128": SMALL, "gpt2-wide": ("gpt2-wide",), "minilm": ("minilm",)}
LANGUAGE = (*SMALL, "gpt2-wide")
OF_DEFAULT = "orthogonal, non-negative, varying"
TRAINING = 20
"""Times as long as a build that an autoencoder's training should take, at least."""


def main() -> None:
    report("bars", [*beside_paper(), *beside_autoencoders(), *meaning()])


def beside_paper() -> list[Row]:
    """The default's share of what paper mode leaves, and how far mixtures go on from there."""
    own = by_method(results("fidelity"), lambda row: row["K/D"] > 0.02)
    found = []
    for models, most in zip(GROUPS, (0.62, 0.78, 0.80), strict=True):
        found.append(at_most("default / paper mode, FVU and residual FVU", models, own["budget"], "FVU/paper", most))
    for models, most in zip(GROUPS, (0.60, 0.85), strict=False):
        found.append(at_most("default / paper mode, ΔCE", models, own["budget"], "dCE/paper", most))
    for models, least in zip(GROUPS, (0.75, 0.75, 0.6), strict=True):
        what = "mixture, share of the way from default to learned, FVU"
        found.append(at_least(what, models, own["mixture"], "closes", least))
    return found


def beside_autoencoders() -> list[Row]:
    """Ratios to TopK at its end, with K atoms in the mean and with K for every row."""
    own = by_method(results("autoencoders"), lambda row: row["K/D"] < 0.07)
    topk = {(row["model"], row["K"]): row for row in own["topk"]}

    def ratios(method: str, score: str) -> list[Row]:
        pairs = ((row, topk[row["model"], row["K"]]) for row in own[method] if (row["model"], row["K"]) in topk)
        return [{**row, "ratio": row[score] / other[score]} for row, other in pairs if row[score] != ""]

    found = []
    for called in ("{}, at an L0 of K", "{}, exactly K"):
        for shown, method in (("default", "budget"), ("mixture", "mixture")):
            for score in ("FVU", "dCE"):
                rows = ratios(called.format(method), score)
                what = f"{called.format(shown)} / TopK, {score.replace('dCE', 'ΔCE')}"
                found.append(at_most(what, "all", rows, "ratio", 1.0))
    for models, names in (("language models", LANGUAGE), ("minilm", ("minilm",))):
        rows = [{**row, "times": 1 / row["ratio"]} for row in ratios("budget", "s") if row["model"] in names]
        found.append(at_least("TopK's training / default's building, times", models, rows, "times", TRAINING))
    return found


def meaning() -> list[Row]:
    """Probing, readability, and that a build gives the same bytes again."""
    found = []
    for what in ("paper mode", "TopK SAE"):
        rows = [row for row in results("probing") if row["features"].startswith(what)]
        ahead = [
            {"model": f"{row['set']}, {name.removeprefix('ahead ')}", "most": float(row[name].split(" to ")[1])}
            for row in rows
            for name in row
            if name.startswith("ahead ")
        ]
        bar = f"probing, default ahead of {what}: upper end of the 95 % interval"
        found.append(at_least(bar, "minilm, all sets", ahead, "most", 0.0))
    lifts = [row for row in results("codings") if (row["method"], row["coding"]) == ("budget", OF_DEFAULT)]
    paper = {row["model"]: row["lift"] for row in results("codings") if row["method"] == "paper"}
    lifts = [{**row, "ahead": row["lift"] - paper[row["model"]]} for row in lifts]
    found.append(at_least("readability, the default's lift over paper mode's", "all", lifts, "ahead", 0.0))
    same = [{**row, "same": float(row["same seed, same bytes"])} for row in results("stability")]
    found.append(at_least("two builds with one seed have the same bytes", "all", same, "same", 1.0))
    return found


def results(name: str) -> list[Row]:
    """The rows of one file of results."""
    found: list[Row] = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return found


def by_method(rows: Iterable[Row], keep: Callable[[Row], bool]) -> dict[str, list[Row]]:
    """Rows that are asked about, by their method."""
    found: dict[str, list[Row]] = {}
    for row in filter(keep, rows):
        found.setdefault(row["method"], []).append(row)
    return found


def at_most(what: str, models: str, rows: list[Row], name: str, bar: float) -> Row:
    """A bar that no row may be above."""
    return judged(what, models, rows, name, f"at most {bar:g}", lambda value: value <= bar, max)


def at_least(what: str, models: str, rows: list[Row], name: str, bar: float) -> Row:
    """A bar that no row may be below."""
    return judged(what, models, rows, name, f"at least {bar:g}", lambda value: value >= bar, min)


def judged(
    what: str, models: str, rows: list[Row], name: str, bar: str, good: Callable[[float], bool], worst: Any
) -> Row:
    """One bar: the worst and the best that was measured, and where it was missed."""
    rows = [row for row in rows if row["model"] in GROUPS.get(models, (row["model"],))]
    values = [row[name] for row in rows]
    missed = [
        " K=".join(str(row[part]) for part in ("model", "K") if part in row) for row in rows if not good(row[name])
    ]
    best = {max: min, min: max}[worst](values)
    return {
        "what": what,
        "models": models,
        "bar": bar,
        "worst": float(worst(values)),
        "best": float(best),
        "met": f"{len(rows) - len(missed)} of {len(rows)}",
        "missed": ", ".join(missed),
    }


if __name__ == "__main__":
    main()

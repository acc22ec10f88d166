"""The tables of docs/fidelity.md, from benchmarks/results."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
Row = dict[str, Any]
EQUAL, EXACT = "{}, at an L0 of K", "{}, exactly K"
SITES = ("model", "site", "method", "fvu", "residual_fvu", "delta_ce", "l0", "lift", "largest head")
BASELINES = ("greedy", "kmeans", "random", "token_means")
BESIDE = {
    "default": EQUAL.format("budget"), "default, exactly K": EXACT.format("budget"),
    "mixture": EQUAL.format("mixture"), "mixture, exactly K": EXACT.format("mixture"),
    "learned": EQUAL.format("learned"), "learned, exactly K": EXACT.format("learned"),
    "topk": "topk", "batchtopk": "batchtopk", "topk from data": "topk from data",
    "pursuit on topk": EQUAL.format("pursuit on topk"), "pursuit on topk, exactly K": EXACT.format("pursuit on topk"),
}  # fmt: skip
"""What a column is called -> the method that it shows."""


def tables() -> dict[str, list[Row]]:
    """By the name of the place in the page."""
    fidelity, beside = _rows("fidelity"), _groups(_rows("autoencoders"))
    return {
        "bars": [_bar(row) for row in _rows("bars")],
        "paper": [_beside_paper(group) for group in _groups(fidelity)],
        "saes": [_beside_saes(group) for group in beside],
        "ratios": [_ratios_to_saes(group) for group in beside],
        "costs": [_costs_beside_saes(group, _rows("autoencoder_training")) for group in beside],
        "codings": [_coding(row) for row in _rows("codings")],
        "controls": _controls(_rows("controls")),
        "sites": [_short(row, *SITES) for row in _rows("sites")],
        "sinks": [_short(row, *row) for row in _rows("sinks")],
        "effects": [_short(row, *row) for row in _rows("effects")],
        "stability": [_stability(row) for row in _rows("stability")],
        "probing": [_probing(row) for row in _rows("probing")],
    }


def in_short(rows: list[Row]) -> list[Row]:
    """One row a model, at the number of steps where autoencoders were swept: what the README shows."""
    shown = {
        "itda": "budget", "itda, exactly K": "budget, exactly K", "itda, mixtures": "mixture", "paper mode": "paper",
        "TopK SAE": "topk", "BatchTopK SAE": "batchtopk", "random activations": "random",
    }  # fmt: skip
    groups = [group for group in _groups(rows) if 0.05 < group["paper"]["K/D"] < 0.07]
    shown = {name: method for name, method in shown.items() if all(method in group for group in groups)}
    return [
        {
            "model": group["paper"]["model"],
            **{name: _scores(group[method]) for name, method in shown.items()},
        }
        for group in groups
    ]


def _rows(name: str) -> list[Row]:
    file = RESULTS / f"{name}.json"
    found: list[Row] = json.loads(file.read_text())["rows"] if file.exists() else []
    return found


def _groups(rows: list[Row]) -> list[dict[str, Row]]:
    """For each model and number of steps, its rows by method."""
    found: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row["model"], row["K"]), {})[row["method"]] = row
    return list(found.values())


def _scores(row: Row) -> str:
    return " / ".join(f"{row[name]:.3f}" for name in ("FVU", "dCE") if row[name] != "")


def _ratios(row: Row) -> str:
    return " / ".join(f"{row[name]:.2f}" for name in ("FVU/paper", "dCE/paper") if row[name] != "")


def _levels(row: Row) -> str:
    return " / ".join(f"{row[name]:.3f}" for name in ("FVU", "res. FVU", "dCE") if row[name] != "")


def _beside_paper(group: dict[str, Row]) -> Row:
    paper = group["paper"]
    shown = ("paper", "budget", "mixture", "token_means")
    return {
        "model": paper["model"],
        "K": paper["K"],
        "K/D": f"{paper['K/D']:.1%}",
        "paper mode": _levels(paper),
        "default": _ratios(group["budget"]),
        "default, exactly K": _ratios(group["budget, exactly K"]),
        "mixture": _ratios(group["mixture"]),
        "mixture, exactly K": _ratios(group["mixture, exactly K"]),
        "learned": _ratios(group["learned"]),
        **{name.replace("_", " "): _ratios(group[name]) if name in group else "" for name in BASELINES},
        "L0: paper mode, default, mixture, token means": ", ".join(f"{group[name]['L0']:.1f}" for name in shown),
        "mixtures close": f"{group['mixture']['closes']:.2f}",
        "seeds": paper["seeds"],
    }


def _beside_saes(group: dict[str, Row]) -> Row:
    paper = group["budget"]
    return {
        "model": paper["model"],
        "K": paper["K"],
        **{shown: _scores(group[name]) if name in group else "" for shown, name in BESIDE.items()},
    }


def _ratios_to_saes(group: dict[str, Row]) -> Row:
    """Codes with as many atoms in the mean beside each other, and codes with K atoms each."""
    found: Row = {"model": group["budget"]["model"], "K": group["budget"]["K"]}
    for ours in ("default", "mixture"):
        for own, other in ((ours, "topk"), (f"{ours}, exactly K", "topk"), (ours, "batchtopk")):
            both = BESIDE[own] in group and other in group
            found[f"{own} / {other}"] = _beside(group[BESIDE[own]], group[other]) if both else ""
    for nameless in ("learned", "learned, exactly K"):
        there = BESIDE[nameless] in group
        found[f"{nameless} / topk"] = _beside(group[BESIDE[nameless]], group["topk"]) if there else ""
    on_topk = "pursuit on topk"
    for own in ("default", "default, exactly K"):
        other = BESIDE[own.replace("default", on_topk)]
        both = BESIDE[own] in group and other in group
        found[f"{own} / {on_topk}"] = _beside(group[BESIDE[own]], group[other]) if both else ""
    return found


def _costs_beside_saes(group: dict[str, Row], training: list[Row]) -> Row:
    own, mixture, sae = group["budget"], group["mixture"], group["topk"]
    runs = [run for run in training if run["model"] == own["model"] and run["steps"] == own["K"]]
    as_good = [run["seconds"] for run in runs if run["fvu"] <= own["FVU"]]
    return {
        "model": own["model"],
        "K": own["K"],
        "passes": sae["passes"],
        "the last doubling gained": _last_gain(runs),
        "s to make: default, mixture, topk": f"{own['s']:.0f}, {mixture['s']:.0f}, {sae['s']:.0f}",
        "s until topk has the default's FVU": f"{min(as_good):.0f}" if as_good else "never",
        "s for a million: default, topk": f"{own['s/M']:.0f}, {sae['s/M']:.0f}",
        "both: default, topk": ", ".join(f"{one['s'] + one['s/M']:.0f}" for one in (own, sae)),
        "L0 by itself: default, mixture": f"{own['L0']:.1f}, {mixture['L0']:.1f}",
    }


def _last_gain(trained: list[Row]) -> str:
    """What the last doubling of the passes gained in FVU, at the better of the rates that it was tried with.

    Nothing where they were not doubled for this number of steps, but taken over from another.
    """
    runs = {(run["rate"], run["passes"]): run["fvu"] for run in trained}
    most = max((passes for _, passes in runs), default=0)
    gains = [
        1 - fvu / runs[rate, passes // 2]
        for (rate, passes), fvu in runs.items()
        if passes == most and (rate, passes // 2) in runs
    ]
    return f"{max(gains):.1%} (at {most})" if gains else ""


def _bar(row: Row) -> Row:
    return {name: f"{row[name]:.2f}" if isinstance(row[name], float) else row[name] for name in row if name != "missed"}


def _beside(row: Row, other: Row) -> str:
    return " / ".join(f"{row[name] / other[name]:.2f}" for name in ("FVU", "dCE") if row[name] != "")


def _coding(row: Row) -> Row:
    found = _short(
        row, "model", "method", "coding", "fvu / paper", "delta_ce / paper", "l0", "lift", "source", "stable"
    )
    return {**found, "energy subtracted": _number(row["negative_energy"]), "seeds": row["seeds"]}


def _controls(rows: list[Row]) -> list[Row]:
    """What is left as a share of what random activations leave, a column a method."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        into = found.setdefault((row["model"], row["control"]), {"model": row["model"], "control": row["control"]})
        is_random = row["method"].startswith("random")
        into[row["method"]] = f"FVU {row['fvu']:.3f}" if is_random else f"{row['of random']:.2f}"
        if row["lift"] != "":
            into[f"lift, {row['method']}"] = _number(row["lift"])
    columns = dict.fromkeys(name for row in found.values() for name in row)
    return [{name: row.get(name, "") for name in columns} for row in found.values()]


def _stability(row: Row) -> Row:
    return {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in row.items()}


def _probing(row: Row) -> Row:
    return {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()}


def _short(row: Row, *names: str) -> Row:
    return {name: _number(row[name]) for name in names}


def _number(value: Any) -> Any:
    return f"{value:.3f}" if isinstance(value, float) else value

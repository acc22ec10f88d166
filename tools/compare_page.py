"""The tables of docs/compare.md, from benchmarks/results."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
Row = dict[str, Any]
OWN = 20_000


def tables() -> dict[str, list[Row]]:
    """By the name of the place in the page."""
    layers = _content("layer_matching")["rows"]
    return {
        "layers": _layers(layers, whitened=False),
        "layers whitened": _layers(layers, whitened=True),
        "layers beyond": _beyond(layers),
        "time": [_time(row) for row in _content("layer_matching_time")["rows"]],
        "tokenizers": [_tokenizers(row) for row in _content("tokenizers")["rows"]],
        "models": _models(_content("models")),
        "run": [_checkpoint(row) for row in _content("microscope")["rows"]],
        "costs": _costs(_content("microscope")),
        "diff": _diff(_content("diff")),
        "equals": _content("diff").get("equals", []),
        "translate": _translations(_content("translate")["rows"]),
    }


def _content(name: str) -> Row:
    file = RESULTS / f"{name}.json"
    found: Row = json.loads(file.read_text()) if file.exists() else {"rows": []}
    return found


def _layers(rows: list[Row], *, whitened: bool) -> list[Row]:
    """Of each measure, the share of layers that it finds, by tokens and by text."""
    found: dict[str, Row] = {}
    for row in rows:
        if row["whitened"] == whitened:
            column = f"{row['tokens'] // 1000} k" if row["text"] == "wiki" else row["text"]
            found.setdefault(row["measure"], {})[column] = row["accuracy"]
    sizes = [f"{tokens} k" for tokens in (1, 10, 20, 100)]
    columns = list(dict.fromkeys([*sizes, *(name for row in found.values() for name in row)]))
    return [
        {"measure": measure, **{name: f"{row[name]:.2f}" if name in row else "" for name in columns}}
        for measure, row in sorted(found.items(), key=lambda item: -item[1].get("20 k", 0))
    ]


def _beyond(rows: list[Row]) -> list[Row]:
    """Overlap less the best of the others, on every text and number of tokens."""
    answer = []
    for text, tokens, whitened in dict.fromkeys((row["text"], row["tokens"], row["whitened"]) for row in rows):
        same = [row for row in rows if (row["text"], row["tokens"], row["whitened"]) == (text, tokens, whitened)]
        own = next(row for row in same if row["measure"] == "overlap")
        best = max((row for row in same if row is not own), key=lambda row: row["accuracy"])
        ends = f" ({best['beyond_low']:.2f} to {best['beyond_high']:.2f})" if best["beyond_low"] is not None else ""
        answer.append(
            {
                "text": text, "tokens": f"{tokens:,}", "activations": "whitened" if whitened else "plain",
                "overlap": f"{own['accuracy']:.2f}", "mean miss": f"{own['mean_miss']:.2f}",
                "best other": f"{best['accuracy']:.2f}, {best['measure']}",
                "overlap less it": f"{best['beyond']:+.2f}{ends}", "chance": f"{own['chance']:.2f}",
            }
        )  # fmt: skip
    return answer


def _time(row: Row) -> Row:
    return {
        "activations": "whitened" if row["whitened"] else "plain", "measures": row["measures"], "layers": row["layers"],
        "tokens": f"{row['tokens']:,}", "seconds": f"{row['seconds']:.0f}",
    }  # fmt: skip


def _tokenizers(row: Row) -> Row:
    return {
        "text": row["text"], "models": row["models"], "common places": f"{row['common']:.0%}",
        "atoms there": row["atoms"], "shared": row["shared"], "Jaccard": f"{row['Jaccard']:.3f}",
        "by chance": f"{row['by chance']:.3f}", "untrained": f"{row['untrained']:.3f}",
        "beyond both": f"{row['beyond']:.3f}", "nets": f"{row['nets']:.3f}",
        "nets, untrained": f"{row['nets, untrained']:.3f}",
    }  # fmt: skip


def _models(content: Row) -> list[Row]:
    """Means over pairs of models."""
    return [
        {
            "models": name, **{which: _number(of[which]) for which in ("within", "across", "beside untrained")},
            "within less across": _number(of["within less across"])
            + (f" ({of['interval'][0]:.3f} to {of['interval'][1]:.3f})" if of["interval"] else ""),
        }
        for name, of in content.get("sets", {}).items()
    ]  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"


def _checkpoint(row: Row) -> Row:
    return {
        "checkpoint": row["checkpoint"], "atoms born": row["born"],
        "95 % is this one alone": row["interval of one checkpoint"], "tells its tokens": f"{row['told']:.2f}",
        "FVU, carried over": f"{row['FVU']:.3f}", "own atoms shared": f"{row['own atoms shared']:.3f}",
        **{name: _number(row[name]) for name in ("cost, all", "cost, born", "cost, unborn")},
    }  # fmt: skip


def _costs(content: Row) -> list[Row]:
    return [
        {"leaving an atom out": name, "mean": f"{of['mean']:.3f}", "95 %": "{:.3f} to {:.3f}".format(*of["interval"])}
        for name, of in content.get("cost_of_birth", {}).items()
    ]


def _diff(content: Row) -> list[Row]:
    names = ("ours", "difference of means", "difference of logits", "by chance")
    rows = [{"trait": row["trait"], "model": row["model"], **{name: f"{row[name]:g}" for name in names},
             "called changed": f"{row['changed']:g}", "of the trait": f"{row['changed, of trait']:g}"}
            for row in content["rows"]]  # fmt: skip
    if rows:
        middle = {name: f"{content['median_rank'][name]:g}" for name in names}
        rows.append({"trait": "median of all", "model": "", **middle, "called changed": "", "of the trait": ""})
    return rows


def _translations(rows: list[Row]) -> list[Row]:
    """The best reading of codes of each pair beside the best of the plain ways."""
    answer = []
    for one, other in dict.fromkeys((row["from"], row["to"]) for row in rows):
        same = [row for row in rows if (row["from"], row["to"]) == (one, other)]
        score = "explains beyond token"
        codes = max((row for row in same if row["atoms"]), key=lambda row: row[score])
        plain = max((row for row in same if not row["atoms"]), key=lambda row: row[score])
        token = next(row for row in same if row["way"] == "token mean")
        answer.append(
            {
                "from": one, "to": other, "differs": codes["differs"], "common places": f"{codes['common']:.0%}",
                "atoms": codes["atoms"], "L0": f"{codes['L0']:.0f}", "codes explain": f"{codes[score]:.2f}",
                "read": codes["way"], "best plain way explains": f"{plain[score]:.2f}, {plain['way']}",
                "dCE: codes, plain, token mean": " / ".join(_number(row["dCE"]) for row in (codes, plain, token)),
            }
        )  # fmt: skip
    return answer

"""What a page says of the results of `itda compare`, from the JSON that they were written as."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from itda.html import visible
from itda.view import charts

_ROWS = 60
_CONTEXT = 160


class Table(NamedTuple):
    """A table of text and numbers."""

    caption: str
    columns: list[str]
    rows: list[list[Any]]


class Picture(NamedTuple):
    """A chart with what it shows."""

    picture: Any
    caption: str


class Result(NamedTuple):
    """One comparison."""

    title: str
    file: str
    lines: list[str]
    tables: list[Table]
    charts: list[Picture]
    places: list[dict[str, str]]


def result(file: str, content: Mapping[str, Any]) -> Result:
    """What to show of one file; one that cannot be read as what it says it is gets a line that says so."""
    kind = str(content.get("format", "")).rpartition(".")[2]
    show = _SHOWN.get(kind)
    if show is None:
        return Result(kind or "unknown", file, ["This version of itda does not know such results."], [], [], [])
    try:
        return show(file, content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        said = f"This file is not what itda compare writes ({type(error).__name__}: {error}). Make it again."
        return Result(kind, file, [visible(said)], [], [], [])


def _layers(file: str, content: Mapping[str, Any]) -> Result:
    pictures, rows, named = [], [], dict[str, None]()
    for measure, found in content["measures"].items():
        matrix = found["matrix"]
        names = [site.rpartition(".")[2] for site in matrix["sites"]]
        models = [model.rpartition("/")[2] for model in matrix["models"]]
        named |= dict.fromkeys(matrix["models"])
        title = f"{measure}{', whitened' if matrix['whiten'] else ''}"
        pictures.append(
            Picture(
                charts.heatmap(matrix["values"], names, models, title=title),
                f"{title}: how alike layers are, the darker the more",
            )
        )
        match = found.get("matching")
        if match:
            ends = match["interval"]
            ahead = found.get("ahead")
            rows.append([measure, f"{match['accuracy']:.2f}", "" if not ends else f"{ends[0]:.2f} to {ends[1]:.2f}",
                         f"{match['chance']:.2f}", _number(match["mean_miss"], 2), _ahead(ahead)])  # fmt: skip
    columns = ["measure", "found", "95 %", "chance", "mean miss, layers", "the first is ahead by"]
    title = "How often the same layer of another model is the most alike"
    tables = [Table(title, columns, rows)] if rows else []
    return Result("Layers", file, [f"Layers of {', '.join(named)}."], tables, pictures, [])


def _ahead(found: Mapping[str, Any] | None) -> str:
    if not found or found["difference"] is None:
        return ""
    ends = found["interval"]
    return f"{found['difference']:+.2f}" + (f" ({ends[0]:+.2f} to {ends[1]:+.2f})" if ends else "")


def _models(file: str, content: Mapping[str, Any]) -> Result:
    names = [name.rpartition("/")[2] for name in content["models"]]
    picture = charts.heatmap(content["values"], names, [""] * len(names), title="How alike models are")
    means = {name: _number(content[name]) for name in ("within", "across", "beside_untrained")}
    line = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in means.items() if value)
    return Result("Models", file, [line], [], [Picture(picture, "Overlap of the dictionaries of all their layers")], [])


def _dictionaries(file: str, content: Mapping[str, Any]) -> Result:
    names = ("jaccard", "expected", "adjusted", "overlap_coefficient", "untrained")
    rows = [[name.replace("_", " "), _number(content[name])] for name in names if content.get(name) is not None]
    first, second = content["sizes"]
    line = f"{content['shared']:,} of {first:,} and {second:,} atoms are the same, by {content['level']}."
    return Result("Overlap of two dictionaries", file, [line], [Table("Overlap", ["", "value"], rows)], [], [])


def _directions(file: str, content: Mapping[str, Any]) -> Result:
    parts = zip(("first", "second"), content["sizes"], content["mean_cosine"], content["expected"], content["alike"],
                strict=True)  # fmt: skip
    rows = [
        [name, f"{size:,}", _number(cosine, 3), _number(chance, 3), f"{share:.1%}"]
        for name, size, cosine, chance, share in parts
    ]
    columns = ["", "atoms", "mean cosine with the nearest", "by chance", "alike"]
    line = f"{content['mutual']:,} pairs of atoms are each other's nearest."
    title = "Two dictionaries as directions"
    return Result(title, file, [line], [Table("Nearest atoms", columns, rows)], [], [])


def _checkpoints(file: str, content: Mapping[str, Any]) -> Result:
    rows = [
        [name, born, _number(point["overlap"]), _number(point["fvu"])]
        for name, born, point in zip(content["names"], content["births"], content["checkpoints"], strict=True)
    ]
    layers = content["checkpoints"][0]["layers"]
    tables = [
        Table("Checkpoints", ["checkpoint", "atoms born", "own atoms shared with the last", "FVU, carried over"], rows)
    ]
    for measure in layers:
        sites = list(layers[measure])
        own = [[name, *(_number(point["layers"][measure][site]) for site in sites)]
               for name, point in zip(content["names"], content["checkpoints"], strict=True)]  # fmt: skip
        tables.append(Table(f"{measure} of each layer with the last checkpoint", ["checkpoint", *sites], own))
    followed = f"{len(content['atoms'])} atoms followed on {content['tokens']:,} tokens"
    line = f"{content['model']} at {content['site']}, {followed}."
    return Result("A training run", file, [line], tables, [], [])


def _diff(file: str, content: Mapping[str, Any]) -> Result:
    base, tuned = content["models"]
    rows = [
        [atom["atom"], "yes" if atom["changed"] else "", atom["only_in"] or "", _number(atom["distance"], 2),
         *(f"{share:.2%}" for share in atom["frequency"]), _number(atom["q"], 3),
         visible(atom["source"]["text"], _CONTEXT)]
        for atom in content["joint"]["atoms"][:_ROWS]
    ]  # fmt: skip
    columns = ["atom", "changed", "only in", "distance", "used by base", "used by tuned", "q", "text"]
    lines = [f"{base} (base) and {tuned} (tuned) at {content['site']}."]
    outputs = content.get("outputs")
    if outputs:
        lines.append(f"Predictions differ by {outputs['kl']:.4f} nats in the mean.")
        for name in ("raised", "lowered"):
            words = "  ".join(repr(visible(word, 40)) for word, _ in outputs[name][:8])
            lines.append(f"Tokens {name}: {words}")
    places = [
        {"weight": f"{place['difference']:.2f}", "before": visible(place["before"]), "token": visible(place["token"]),
         "after": visible(place["after"]), "now": visible(place["likelier"], 40)}
        for place in content["places"][:20]
    ]  # fmt: skip
    title = "Atoms of a dictionary of both, in the order in which to read them"
    return Result("What fine-tuning changed", file, lines, [Table(title, columns, rows)], [], places)


def _translate(file: str, content: Mapping[str, Any]) -> Result:
    rows = [
        [name, _number(row["fvu"]), _number(row["explains"]), _number(row["delta_ce"])]
        for part in ("codes", "baselines") for name, row in content[part].items()
    ]  # fmt: skip
    line = f"{content['sites'][0]} of {content['models'][0]}, as {content['sites'][1]} of {content['models'][1]}."
    columns = ["from", "FVU", "share of what the token mean leaves", "ΔCE, nats"]
    return Result("Translation", file, [line], [Table("On held-out documents", columns, rows)], [], [])


_SHOWN: dict[str, Callable[[str, Mapping[str, Any]], Result]] = {
    "layers": _layers, "models": _models, "dictionaries": _dictionaries, "checkpoints": _checkpoints, "diff": _diff,
    "translate": _translate, "directions": _directions,
}  # fmt: skip


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"

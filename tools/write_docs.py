"""Write the generated pages of docs/ and the table of the README, or check that they are up to date.

python tools/write_docs.py [--check]
"""

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compare_page
import fidelity_page
import steering_page
import typer.main
from typer.cli import get_docs_for_click

from itda.cli import app
from itda.planning import plan

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Rows = list[dict[str, Any]]


def command_line_page(_: str) -> str:
    """Help of every verb, as Markdown."""
    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="itda"), name="itda").strip() + "\n"


def results_page(_: str) -> str:
    """Every table of benchmarks/results."""
    parts = ["# Measured\n", "Made from `benchmarks/results` by `make docs`; `make bench` measures again.\n"]
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text())
        facts = content["machine"] | {
            key: value
            for key, value in content.items()
            if key not in ("machine", "rows", "script") and not isinstance(value, dict | list)
        }
        parts.append(f"## {path.stem}\n")
        script = content.get("script", f"bench_{path.stem}.py")
        parts.append(f"`benchmarks/{script}`; {', '.join(f'{key} {value}' for key, value in facts.items())}\n")
        parts.append(markdown(content["rows"]))
    return "\n".join(parts)


def readme(text: str) -> str:
    """The README with its table of methods made anew."""
    content = json.loads((RESULTS / "fidelity.json").read_text())
    note = (
        "\nHeld-out FVU (fraction of variance unexplained) / rise of the loss (cross-entropy) in nats, lower is\n"
        f"better; {content['tokens']:,} tokens of the middle layer, 8 atoms for each of its D dimensions, K = 6 %\n"
        "of D atoms a token. itda, its mixtures (of up to five activations) and random activations use K in the\n"
        "mean, the others K for every token. Paper mode is the published rule at its best threshold; autoencoders\n"
        "went over the tokens 80 to 320 times. Medians over three seeds; random activations, autoencoders: one.\n\n"
    )
    return _between(text, "fidelity", note + markdown(fidelity_page.in_short(content["rows"])))


def fidelity(text: str) -> str:
    """The page on fidelity with its tables made anew."""
    return _with(text, fidelity_page.tables())


def comparing(text: str) -> str:
    """The page on comparing with its tables made anew."""
    return _with(text, compare_page.tables())


def steering(text: str) -> str:
    """The page on steering with its tables made anew."""
    return _with(text, steering_page.tables())


def metrics(text: str) -> str:
    """The page on metrics with what other evaluations say of the same dictionary."""
    rows = json.loads((RESULTS / "evaluations.json").read_text())["rows"]
    shown = [{name: row[name] for name in ("metric", "ours", "SAELens", "SAEBench")} for row in rows
             if row["dictionary"] == "paper, signed"]  # fmt: skip
    return _with(text, {"evaluations": shown})


def _with(text: str, tables: dict[str, Rows]) -> str:
    for name, rows in tables.items():
        text = _between(text, name, "\n" + (markdown(rows) if rows else "Not measured yet.\n"))
    return text


def scaling(text: str) -> str:
    """The page on scaling with its tables made anew: predictions beside measurements, and plans for a large model."""
    content = json.loads((RESULTS / "plan.json").read_text())
    rows = [
        {
            "run": row["run"],
            "seconds": f"{row['seconds']:.1f}",
            "time": f"{row['ratio']:.2f}",
            "memory": f"{row['ratio of memory']:.2f}",
            "disk": f"{row['ratio of disk']:.2f}",
        }
        for row in content["rows"]
    ]
    plans = []
    for options in LARGE_RUNS:
        found = plan(LARGE, atoms=16_384, **options)  # by the same name wherever the repository is: lines are wrapped
        asked = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items() if name != "on")
        plans.append(f"`{asked.replace(' True', '')} --machine {options['on']}`\n\n```text\n{found!s}\n```\n")
    listed = "\n".join(plans).replace(LARGE, "Llama-3.1-405B")
    return _between(_between(text, "plan", "\n" + markdown(rows)), "llama", "\n" + listed)


LARGE = "benchmarks/configs/llama-3.1-405b.json"
LARGE_RUNS: tuple[dict[str, Any], ...] = (
    {"tokens": 10**6, "on": "h200x8"},
    {"tokens": 10**6, "on": "a100x8", "from_disk": True},
    {"tokens": 10**9, "on": "h200x8", "workers": 16, "shards": 256},
)


def _between(text: str, name: str, content: str) -> str:
    before, _, rest = text.partition(f"<!-- {name} -->\n")
    _, _, after = rest.partition(f"<!-- /{name} -->")
    return f"{before}<!-- {name} -->\n{content}\n<!-- /{name} -->{after}"


def markdown(rows: Rows) -> str:
    """Rows as a Markdown table."""

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)

    lines = [list(rows[0]), ["---"] * len(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


PAGES: dict[str, Callable[[str], str]] = {
    "docs/cli.md": command_line_page,
    "docs/results.md": results_page,
    "docs/scaling.md": scaling,
    "docs/fidelity.md": fidelity,
    "docs/compare.md": comparing,
    "docs/steering.md": steering,
    "docs/metrics.md": metrics,
    "README.md": readme,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    os.chdir(ROOT)
    stale = 0
    for name, make in PAGES.items():
        path = ROOT / name
        found = path.read_text() if path.exists() else ""
        wanted = make(found)
        if found == wanted:
            continue
        stale += 1
        if check:
            sys.stdout.writelines(difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), name, "now"))
            print(f"{name} is out of date: run make docs")
        else:
            path.write_text(wanted)
            print(f"wrote {name}")
    return stale if check else 0


if __name__ == "__main__":
    sys.exit(main())

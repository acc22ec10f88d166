"""What is otherwise in one file of results than in another of the same benchmark, such as that of a later run.

python benchmarks/compare_results.py OLD.json NEW.json [--tolerance 0.03]

Rows are the same where all that is no measurement is. Ends with 1 where a number differs by more than the tolerance,
as a share of the larger, or a row is in one file only. Between processors the same build differs by one percent.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
TIMES = ("s", "s/M", "seconds")
"""Not compared: they are the machine's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.03)
    asked = parser.parse_args()
    old, new = (json.loads(file.read_text()) for file in (asked.old, asked.new))
    for name, content in (("old", old), ("new", new)):
        print(f"{name}: {content['machine']}")
    table = Table("row", "what", "old", "new", box=SIMPLE_HEAD, pad_edge=False)
    found = differences(old["rows"], new["rows"], asked.tolerance)
    for difference in found:
        table.add_row(*difference)
    if found:
        Console(width=160).print(table)
    print(f"{len(found)} differences of more than {asked.tolerance:.0%} in {len(new['rows'])} rows")
    sys.exit(bool(found))


def differences(old: list[Row], new: list[Row], tolerance: float) -> list[tuple[str, str, str, str]]:
    """Row, what, and both values, of all that differs."""
    before, after = ({named(row): row for row in rows} for rows in (old, new))
    found = []
    for name in {**before, **after}:
        if name not in before or name not in after:
            found.append((name, "the row", *("there" if name in rows else "missing" for rows in (before, after))))
            continue
        for what, value in after[name].items():
            was = before[name].get(what)
            if what in TIMES or not (isinstance(value, float) and isinstance(was, float)):
                continue
            if abs(value - was) > tolerance * max(abs(value), abs(was)):
                found.append((name, what, f"{was:.4f}", f"{value:.4f}"))
    return found


def named(row: Row) -> str:
    """A row by what in it is no measurement."""
    return ", ".join(f"{value}" for value in row.values() if isinstance(value, str | int) and value != "")


if __name__ == "__main__":
    main()

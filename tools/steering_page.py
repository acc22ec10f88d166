"""The tables of docs/steering.md, from benchmarks/results."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
Row = dict[str, Any]
PLACES = {
    "effects": "steering", "maps": "steering_maps", "controller": "steering_controller", "rules": "steering_rules",
    "acting": "steering_acting",
    "transfer": "steering_transfer", "peers": "steering_peers", "cost": "steering_cost",
}  # fmt: skip
"""Place in the page -> file of results."""


def tables() -> dict[str, list[Row]]:
    """By the name of the place in the page."""
    return {place: [_rounded(row) for row in _rows(name)] for place, name in PLACES.items()}


def _rows(name: str) -> list[Row]:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text())["rows"] if file.exists() else []


def _rounded(row: Row) -> Row:
    return {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()}

"""Measurements that are kept one by one, so that a benchmark of hours goes on where it was stopped."""

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from common import RESULTS

Cell = dict[str, Any]


class Cells:
    """Single measurements in results/cells/NAME.jsonl; remove the file, or lines of it, to measure anew.

    Lines are appended, so processes that measure different things may share a file.
    """

    def __init__(self, name: str) -> None:
        self._file = RESULTS / "cells" / f"{name}.jsonl"

    @property
    def all(self) -> list[Cell]:
        """All there are now."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]  # one may have been cut short

    def where(self, **facts: Any) -> list[Cell]:
        """Those that have all these values."""
        return [cell for cell in self.all if all(cell.get(name) == value for name, value in facts.items())]

    def add(self, **cell: Any) -> Cell:
        """Keep one more, with the commit it was measured at."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        cell["commit"] = _commit()
        with self._file.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        return cell


@cache
def _commit() -> str:
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    if shutil.which("git") is None:
        return ""
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()

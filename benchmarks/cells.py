"""Measurements that are kept one by one, so that a benchmark of hours goes on where it was stopped."""

import json
from typing import Any

from common import RESULTS

Cell = dict[str, Any]


class Cells:
    """Single measurements in results/cells/NAME.json; remove the file, or cells in it, to measure anew."""

    def __init__(self, name: str) -> None:
        self._file = RESULTS / "cells" / f"{name}.json"
        self.all: list[Cell] = json.loads(self._file.read_text())["cells"] if self._file.exists() else []

    def where(self, **facts: Any) -> list[Cell]:
        """Those that have all these values."""
        return [cell for cell in self.all if all(cell.get(name) == value for name, value in facts.items())]

    def add(self, **cell: Any) -> Cell:
        """Keep one more."""
        self.all.append(cell)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".part")
        lines = ",\n".join(json.dumps(known) for known in self.all)
        draft.write_text(f'{{"cells": [\n{lines}\n]}}\n')
        draft.replace(self._file)
        return cell

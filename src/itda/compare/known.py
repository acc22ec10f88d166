"""What was found, as JSON, which has no number that is unknown."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itda.data.files import check_ours, write_text

_VERSION = 1
_FORMAT = "compare."


def known(value: Any) -> Any:
    """The same with None in the place of NaN and infinities, in dicts, lists and tuples too."""
    if isinstance(value, dict):
        return {name: known(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [known(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_place(path: Path) -> None:
    """Refuse a file that cannot be written, or that is something else, before any work is done for it.

    Raises: OutputError.
    """
    check_ours(path, _FORMAT)


def write_json(path: str | Path, kind: str, document: Mapping[str, Any]) -> Path:
    """Write a document whole or not at all, marked as what it is, so that a page can show it.

    Args:
        path: a file; one that this wrote before is replaced.
        kind: the verb that made it: `layers`, `diff`, ...
        document: plain values.

    Raises: OutputError if it cannot be written, or is another file.
    """
    where = Path(path)
    check_place(where)
    marked = {"format": f"itda.{_FORMAT}{kind}", "version": _VERSION, **document}
    write_text(where, json.dumps(marked, indent=1, allow_nan=False) + "\n")
    return where

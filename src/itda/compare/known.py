"""What was found, as JSON, which has no number that is unknown."""

import json
import math
from pathlib import Path
from typing import Any

from itda.data.files import write_text


def known(value: Any) -> Any:
    """The same with None in the place of NaN and infinities, in dicts, lists and tuples too."""
    if isinstance(value, dict):
        return {name: known(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [known(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | Path, document: dict[str, Any]) -> Path:
    """Write a document whole or not at all.

    Raises: OutputError if it cannot be written.
    """
    where = Path(path)
    write_text(where, json.dumps(document, indent=1, allow_nan=False) + "\n")
    return where

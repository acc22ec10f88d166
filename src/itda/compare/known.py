"""Numbers for JSON, which has none that are unknown."""

import math
from typing import Any


def known(value: Any) -> Any:
    """The same with None in the place of NaN and infinities, in dicts, lists and tuples too."""
    if isinstance(value, dict):
        return {name: known(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [known(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

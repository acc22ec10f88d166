"""Numbers under which rounding decides, the same in every backend but the reference."""

NEGLIGIBLE = 1e-6
"""Correlation of a row of norm 1 in float32, under which a choice is noise."""

DEPENDENT = NEGLIGIBLE**2
"""Squared distance of an atom from the span of those already chosen, under which its correlation is negligible."""

RIDGE = 1e-12
"""Two copies of an atom in one code have no single answer; with this they share the coefficient."""

FEASIBLE = 1e-12
"""A coefficient that must not be negative and is no larger than this is zero."""

OPTIMAL = 1e-9
"""Gradient of a coefficient at zero, under which it stays there."""

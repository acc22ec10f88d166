"""How far two models, layers or dictionaries agree."""

from itda.compare.similarities import describe, measures, similarity

__all__ = ["describe", "measures", "similarity"]

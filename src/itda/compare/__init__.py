"""How far two models, layers or dictionaries agree."""

from itda.compare.overlaps import Overlap, overlap
from itda.compare.similarities import describe, measures, similarity

__all__ = ["Overlap", "describe", "measures", "overlap", "similarity"]

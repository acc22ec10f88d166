"""How far two models, layers or dictionaries agree."""

from itda.compare.layer_matching import LayerMatrix, Matching, accuracy_table, match_layers, paired_difference
from itda.compare.layer_matrices import layer_matrices, layer_matrix
from itda.compare.overlaps import Overlap, overlap
from itda.compare.similarities import describe, measures, similarity

__all__ = [
    "LayerMatrix",
    "Matching",
    "Overlap",
    "accuracy_table",
    "describe",
    "layer_matrices",
    "layer_matrix",
    "match_layers",
    "measures",
    "overlap",
    "paired_difference",
    "similarity",
]

"""How far two models, layers or dictionaries agree."""

from itda.compare.diff_report import AtomChanges, ChangedAtom, Diff
from itda.compare.diffing import diff
from itda.compare.layer_matching import LayerMatrix, Matching, accuracy_table, match_layers, paired_difference
from itda.compare.layer_matrices import layer_matrices, layer_matrix
from itda.compare.nets import PRESET
from itda.compare.overlaps import Overlap, overlap
from itda.compare.similarities import describe, measures, similarity
from itda.compare.translation import translate
from itda.compare.translation_report import TranslationReport, measure_translation
from itda.compare.transplants import Transplant, transplant

__all__ = [
    "PRESET",
    "AtomChanges",
    "ChangedAtom",
    "Diff",
    "LayerMatrix",
    "Matching",
    "Overlap",
    "TranslationReport",
    "Transplant",
    "accuracy_table",
    "describe",
    "diff",
    "layer_matrices",
    "layer_matrix",
    "match_layers",
    "measure_translation",
    "measures",
    "overlap",
    "paired_difference",
    "similarity",
    "translate",
    "transplant",
]

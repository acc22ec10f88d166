"""How far two models, layers or dictionaries agree."""

from itda.compare.alignment import Alignment, align
from itda.compare.diff_report import AtomChanges, ChangedAtom, Diff
from itda.compare.diffing import diff
from itda.compare.layer_matching import LayerMatrix, Matching, accuracy_table, match_layers, paired_difference
from itda.compare.layers import layer_matrices, layer_matrix
from itda.compare.model_matrices import ModelMatrix, model_matrix
from itda.compare.nets import PRESET
from itda.compare.overlaps import Overlap, overlap
from itda.compare.run_report import Checkpoint, FollowedAtom, TrainingRun
from itda.compare.similarities import describe, measures, similarity
from itda.compare.training_runs import follow
from itda.compare.translation import translate
from itda.compare.translation_report import TranslationReport, measure_translation
from itda.compare.transplants import Transplant, transplant

__all__ = [
    "PRESET",
    "Alignment",
    "AtomChanges",
    "ChangedAtom",
    "Checkpoint",
    "Diff",
    "FollowedAtom",
    "LayerMatrix",
    "Matching",
    "ModelMatrix",
    "Overlap",
    "TrainingRun",
    "TranslationReport",
    "Transplant",
    "accuracy_table",
    "align",
    "describe",
    "diff",
    "follow",
    "layer_matrices",
    "layer_matrix",
    "match_layers",
    "measure_translation",
    "measures",
    "model_matrix",
    "overlap",
    "paired_difference",
    "similarity",
    "translate",
    "transplant",
]

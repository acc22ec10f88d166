"""What a dictionary is worth on text it has not seen."""

from itda.evaluation.effects import Effect, Effects, ablate
from itda.evaluation.held_out import PerhapsSeenWarning, evaluate, held_out_of, tally_windows
from itda.evaluation.judging import Judge, Judgement, judge_atoms
from itda.evaluation.measuring import Tally
from itda.evaluation.probing import ProbeReport, probe
from itda.evaluation.readability import Readability, read_atoms
from itda.evaluation.report import Report, Scores
from itda.evaluation.stability import Stability, compare_codes
from itda.evaluation.stored import evaluate_activations

__all__ = [
    "Effect",
    "Effects",
    "Judge",
    "Judgement",
    "PerhapsSeenWarning",
    "ProbeReport",
    "Readability",
    "Report",
    "Scores",
    "Stability",
    "Tally",
    "ablate",
    "compare_codes",
    "evaluate",
    "evaluate_activations",
    "held_out_of",
    "judge_atoms",
    "probe",
    "read_atoms",
    "tally_windows",
]

"""What a dictionary is worth on text it has not seen."""

from itda.evaluation.held_out import evaluate, held_out_of, tally_windows
from itda.evaluation.measuring import Tally
from itda.evaluation.report import Report, Scores
from itda.evaluation.stored import evaluate_activations

__all__ = ["Report", "Scores", "Tally", "evaluate", "evaluate_activations", "held_out_of", "tally_windows"]

"""What a dictionary is worth on text it has not seen."""

from itda.evaluation.held_out import evaluate
from itda.evaluation.report import Report, Scores
from itda.evaluation.stored import evaluate_activations

__all__ = ["Report", "Scores", "evaluate", "evaluate_activations"]

"""Change what a model does: vectors that can be read as atoms, operators, tokens and gates behind one verb.

from itda import steer

vector = steer.SteeringVector.fit(model, pairs, sites=["resid_post.3"])
with vector.apply(model, strength=0.5, tokens="generation"):
    model.module.generate(**inputs)
"""

from itda.steer.atoms import AtomEdit, VectorExplanation
from itda.steer.calibrating import Calibration, calibrate
from itda.steer.effects import Contrast, NeutralText, contrast, log_probabilities
from itda.steer.gates import AtomGate, ProjectionGate, Threshold, find_threshold
from itda.steer.generating import Generated, generate
from itda.steer.positions import After
from itda.steer.sweeping import Point, Sweep, sweep
from itda.steer.vectors import SteeringVector

__all__ = [
    "After",
    "AtomEdit",
    "AtomGate",
    "Calibration",
    "Contrast",
    "Generated",
    "NeutralText",
    "Point",
    "ProjectionGate",
    "SteeringVector",
    "Sweep",
    "Threshold",
    "VectorExplanation",
    "calibrate",
    "contrast",
    "find_threshold",
    "generate",
    "log_probabilities",
    "sweep",
]

"""Change what a model does: vectors that can be read as atoms, operators, tokens and gates behind one verb.

    from itda import steer

    vector = steer.SteeringVector.fit(model, pairs, sites=["resid_post.3"])
    with vector.apply(model, strength=0.5, tokens="generation"):
        model.module.generate(**inputs)

Nothing of it is left once the block is over.
"""

from itda.steer import affine, attribution, controller, recipes, sweeping
from itda.steer.affine import AffineMap
from itda.steer.applying import TextGate
from itda.steer.atoms import AtomEdit, VectorExplanation
from itda.steer.calibrating import Calibration, calibrate
from itda.steer.concepts import Concept
from itda.steer.controller import Controller
from itda.steer.effects import Contrast, NeutralText, contrast, log_probabilities
from itda.steer.extremes import Extremes, push
from itda.steer.gates import AtomGate, ProjectionGate, Threshold, find_threshold
from itda.steer.generating import Generated, generate
from itda.steer.positions import After
from itda.steer.rules import Reading, Rule, RuleGate, Rules
from itda.steer.sweeping import Point, Sweep, sweep
from itda.steer.vectors import SteeringVector

__all__ = [
    "AffineMap",
    "After",
    "AtomEdit",
    "AtomGate",
    "Calibration",
    "Concept",
    "Contrast",
    "Controller",
    "Extremes",
    "Generated",
    "NeutralText",
    "Point",
    "ProjectionGate",
    "Reading",
    "Rule",
    "RuleGate",
    "Rules",
    "SteeringVector",
    "Sweep",
    "TextGate",
    "Threshold",
    "VectorExplanation",
    "affine",
    "attribution",
    "calibrate",
    "contrast",
    "controller",
    "find_threshold",
    "generate",
    "log_probabilities",
    "push",
    "recipes",
    "sweep",
    "sweeping",
]

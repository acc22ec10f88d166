"""Change what a model does: vectors that can be read as atoms, operators, tokens and gates behind one verb.

from itda import steer

vector = steer.SteeringVector.fit(model, pairs, sites=["resid_post.3"])
with vector.apply(model, strength=0.5, tokens="generation"):
    model.module.generate(**inputs)
"""

from itda.steer.atoms import AtomEdit, VectorExplanation
from itda.steer.positions import After
from itda.steer.vectors import SteeringVector

__all__ = ["After", "AtomEdit", "SteeringVector", "VectorExplanation"]

"""The strength at which steering changes neutral predictions by so much."""

from collections.abc import Sequence
from dataclasses import dataclass

from itda.errors import OptionError
from itda.models.loading import Model
from itda.options import above_zero
from itda.steer.effects import NeutralText
from itda.steer.positions import Tokens
from itda.steer.vectors import SteeringVector

_FIRST, _LARGEST = 0.25, 64.0  # strengths: where the search begins, and where it gives up
_CLOSE = 0.02  # of the wanted divergence


@dataclass(frozen=True)
class Calibration:
    """A strength, and what it does to neutral text."""

    strength: float
    kl: float
    """Mean divergence of the predictions from the model's own, nats."""
    wanted: float
    op: str

    def __str__(self) -> str:
        did = f"KL {self.kl:.4g} nats on neutral text (asked for {self.wanted:g})"
        return f"{self.op}, strength {self.strength:.4g}: {did}"


def calibrate(
    model: Model, vector: SteeringVector, neutral: Sequence[str] | NeutralText, kl: float = 0.1, *, op: str = "add",
    tokens: Tokens = "all", check_model: bool = True,
) -> Calibration:  # fmt: skip
    """Find the strength at which predictions on neutral text differ from the model's own by so much.

    Args:
        model: the vector's.
        vector: what steers; for the other direction, its negative.
        neutral: texts that have nothing to do with it, or a NeutralText for the same tokens.
        kl: mean divergence that is wanted, nats.
        op, tokens, check_model: as of `SteeringVector.apply`.
    Raises: OptionError if no strength gets there, as where the model does not use the site.
    Source: bisection to a bound on the divergence, as in Activation-Steered Compression (Azizi et al. 2025).
    """
    kl = above_zero("kl", kl)
    text = neutral if isinstance(neutral, NeutralText) else NeutralText(model, neutral, tokens)

    def measured(strength: float) -> float:
        with vector.apply(model, strength, op=op, tokens=tokens, check_model=check_model):
            return text.measure().kl

    low, high, found = 0.0, _FIRST, measured(_FIRST)
    while found < kl:
        low, high = high, 2 * high
        if high > _LARGEST:
            raise OptionError(
                f"Even {op} at strength {low:g} changes neutral predictions by {found:.3g} nats only. Ask for less, or "
                "steer at another site."
            )
        found = measured(high)
    strength = high
    while abs(found - kl) > _CLOSE * kl and high - low > 1e-6 * high:
        strength = (low + high) / 2
        found = measured(strength)
        low, high = (strength, high) if found < kl else (low, strength)
    return Calibration(strength, found, kl, op)

"""The class that a dictionary is in SAELens. Importing this makes it known there."""

from dataclasses import dataclass, field
from typing import Any

import torch
from sae_lens.registry import SAE_CLASS_REGISTRY, register_sae_class
from sae_lens.saes.sae import SAE, SAEConfig
from torch import Tensor, nn

from itda.adapters.prepared_weights import PreparedWeights
from itda.adapters.saelens import ARCHITECTURE
from itda.pursuit import Coding, pursue


@dataclass
class ItdaSAEConfig(SAEConfig):
    """What is kept of a dictionary beside its weights."""

    coding: dict[str, Any] = field(default_factory=lambda: Coding(steps=1).to_dict())
    """How a code is made: the fields of `itda.pursuit.Coding`."""

    @classmethod
    def architecture(cls) -> str:
        """Its name in SAELens."""
        return ARCHITECTURE


class ItdaSAE(SAE[ItdaSAEConfig]):
    """A dictionary: `W_dec` its atoms, `b_dec` its mean, and a pursuit in place of an encoder.

    Codes may be negative where the dictionary's own may. A pursuit has no gradient: what is downstream of the codes
    has one towards them, what is upstream has none from them.
    """

    def initialize_weights(self) -> None:
        """Only what a dictionary has."""
        place: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        self.b_dec = nn.Parameter(torch.zeros(self.cfg.d_in, **place))
        self.W_dec = nn.Parameter(torch.zeros(self.cfg.d_sae, self.cfg.d_in, **place))
        self._prepared = PreparedWeights()

    @property
    def W_enc(self) -> Tensor:  # noqa: N802
        """(D, A): the atoms, since the first step of a pursuit is their inner products with the row."""
        return self.W_dec.T

    @property
    def coding(self) -> Coding:
        """How codes are made."""
        return Coding.from_dict(self.cfg.coding)

    def encode(self, x: Tensor) -> Tensor:
        """Codes (..., A), dense, of activations (..., D)."""
        rows = self.process_sae_in(x)
        with torch.no_grad():
            codes = pursue(rows.reshape(-1, rows.shape[-1]), self._prepared.of(self.W_dec), self.coding)
            dense = codes.to_dense(self.cfg.d_sae).to(rows.dtype)
        found: Tensor = self.hook_sae_acts_post(dense.reshape(*rows.shape[:-1], self.cfg.d_sae))
        return found

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Activations (..., D) that codes (..., A) stand for, the mean put back."""
        rows = self.hook_sae_recons(feature_acts @ self.W_dec + self.b_dec)
        found: Tensor = self.reshape_fn_out(self.run_time_activation_norm_fn_out(rows), self.d_head)
        return found

    def fold_W_dec_norm(self) -> None:  # noqa: N802
        """Nothing to do: atoms have norm 1."""

    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Refused: a dictionary is in the units of the model's activations already."""
        raise NotImplementedError("A dictionary is in the units of the model's activations: there is nothing to fold.")

    def fold_activation_whitening(self, mean: Tensor, whitening_matrix: Tensor, unwhitening_matrix: Tensor) -> None:
        """Refused for the same reason."""
        self.fold_activation_norm_scaling_factor(1.0)


if ARCHITECTURE not in SAE_CLASS_REGISTRY:
    register_sae_class(ARCHITECTURE, ItdaSAE, ItdaSAEConfig)

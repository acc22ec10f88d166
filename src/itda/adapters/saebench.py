"""SAEBench: a dictionary as the object that its evaluations take.

    from itda.adapters import saebench

    sae = saebench.as_sae(dictionary, model_name="gpt2-small")
    selected = [("itda", sae)]                    # what the main.py of each of its evaluations takes

Nothing of SAEBench is needed to make it. What its numbers mean, and where they are not ours: docs/metrics.md.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from itda.adapters.prepared_weights import PreparedWeights
from itda.adapters.saelens import hook_of, prepends_bos
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.errors import OptionError
from itda.pursuit import Coding, pursue


@dataclass
class SaeBenchConfig:
    """Every field that SAEBench reads of an autoencoder; those that say nothing about a dictionary are its defaults."""

    model_name: str
    """As TransformerLens knows the model."""
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    context_size: int | None = None
    prepend_bos: bool = True
    dtype: str = "float32"
    device: str = "cpu"
    architecture: str = "itda"
    architecture_str: str = "itda"
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    activation_fn_str: str = ""
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    hook_head_index: int | None = None
    finetuning_scaling_factor: bool = False
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = False
    exclude_special_tokens: bool = False
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = 0
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for its result files."""
        return asdict(self)


class SaeBenchDictionary(nn.Module):
    """A dictionary with the contract of SAEBench's `BaseSAE`."""

    def __init__(self, dictionary: Dictionary, config: SaeBenchConfig) -> None:
        super().__init__()
        self.cfg = config
        self.coding: Coding = dictionary.coding
        self.W_dec = nn.Parameter(dictionary.atoms.clone())
        self.b_dec = nn.Parameter(dictionary.mean.clone())
        self.b_enc = nn.Parameter(torch.zeros(len(dictionary)))
        self._prepared = PreparedWeights()

    @property
    def W_enc(self) -> Tensor:  # noqa: N802
        """(D, A): the atoms, since the first step of a pursuit is their inner products with the row."""
        return self.W_dec.T

    @property
    def device(self) -> torch.device:
        """Where the atoms are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """What it gives; codes are computed in float32."""
        return self.W_dec.dtype

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes (..., A), dense, of activations (..., D)."""
        rows = x.reshape(-1, x.shape[-1]).to(self.device)
        codes = pursue(rows.float(), self._prepared.of(self.W_dec), self.coding, mean=self.b_dec.detach().float())
        return codes.to_dense(self.cfg.d_sae).to(self.dtype).reshape(*x.shape[:-1], self.cfg.d_sae)

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Activations (..., D) that codes (..., A) stand for, the mean put back."""
        return feature_acts @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Activations as the dictionary writes them."""
        return self.decode(self.encode(x))

    def check_decoder_norms(self) -> bool:
        """Whether the atoms have norm 1, as SAEBench asks."""
        norms = torch.linalg.vector_norm(self.W_dec.float(), dim=1)
        tolerance = 1e-5 if self.dtype == torch.float32 else 1e-2
        return bool(torch.allclose(norms, torch.ones_like(norms), atol=tolerance))


def as_sae(dictionary: Dictionary, *, model_name: str | None = None) -> SaeBenchDictionary:
    """A dictionary as SAEBench evaluates it.

    Args:
        dictionary: built from a model, at a place that TransformerLens has a name for.
        model_name: as TransformerLens knows the model; by default the name that the dictionary has of it.
    Raises: OptionError for a dictionary of a bare array, or of another place.
    """
    site = checked_dictionary(dictionary).site
    hook = hook_of(dictionary)
    if hook is None:
        raise OptionError(f"TransformerLens has no name for {site!r}, so SAEBench cannot read there.")
    capture = dictionary.provenance.capture if dictionary.provenance else {}
    config = SaeBenchConfig(
        model_name=model_name or dictionary.model_id,
        d_in=dictionary.width,
        d_sae=len(dictionary),
        hook_layer=int(site.rpartition(".")[2]),
        hook_name=hook,
        context_size=capture.get("window"),
        prepend_bos=prepends_bos(dictionary),
        training_tokens=dictionary.build.rows,
    )
    return SaeBenchDictionary(dictionary, config)

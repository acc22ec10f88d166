"""Models of TransformerLens, as any other: `model = transformer_lens.wrap(hooked)`.

Its tokenizers begin every text with a begin token; `bos=False` of a capture or build takes that away. Its places are
called as ours are or as its hooks are. What was done to its weights when it was loaded (folded norms,
centred weights) makes it another model than the one of transformers: dictionaries belong to one of the two.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from itda.errors import ModelError, SiteError
from itda.models.hook_names import to_hook, to_site
from itda.models.loading import Model, fast
from itda.models.sites import KINDS, Site


class _Output(NamedTuple):
    logits: Tensor


class _AsTransformers(nn.Module):
    """A HookedTransformer that is called, and describes itself, as a model of transformers does."""

    def __init__(self, hooked: Any) -> None:
        import transformers

        super().__init__()
        self.hooked = hooked
        own = hooked.cfg
        self.config = transformers.PretrainedConfig(
            hidden_size=own.d_model,
            num_hidden_layers=own.n_layers,
            num_attention_heads=own.n_heads,
            max_position_embeddings=own.n_ctx,
            vocab_size=own.d_vocab,
            model_type=f"transformer_lens {own.original_architecture or own.model_name}",
            normalization=own.normalization_type,
        )

    @property
    def device(self) -> torch.device:
        return next(self.hooked.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return next(self.hooked.parameters()).dtype  # type: ignore[no-any-return]

    def get_input_embeddings(self) -> Any:
        embedding = nn.Embedding(0, 1)
        embedding.weight = self.hooked.embed.W_E
        return embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> _Output:
        mask = None if attention_mask is None or bool(attention_mask.all()) else attention_mask
        return _Output(self.hooked(input_ids, attention_mask=mask))


class _LensModel(Model):
    """Named places are hook points, which are modules."""

    def sites(self) -> list[Site]:
        own = self.module.hooked.cfg
        widths = {"attn_heads": own.n_heads * own.d_head, "mlp_neurons": own.d_mlp}
        found = []
        for layer in range(own.n_layers):
            for kind in KINDS:
                hook = to_hook(f"{kind}.{layer}")
                if hook is not None and hook in self.module.hooked.hook_dict:
                    heads = own.n_heads if kind == "attn_heads" else None
                    width = widths.get(kind, own.d_model)
                    found.append(Site(f"{kind}.{layer}", f"hooked.{hook}", "output", width, heads))
        return found

    def site(self, name: str) -> Site:
        wanted = to_site(name) if isinstance(name, str) else name
        known = {site.name: site for site in self.sites()}
        if wanted in known:
            return known[wanted]
        if isinstance(name, str) and name in self.module.hooked.hook_dict:
            return Site(name, f"hooked.{name}", "output", None)
        kinds = ", ".join(dict.fromkeys(one.partition(".")[0] for one in known))
        raise SiteError(
            f"There is no site {name!r} in this model. It has {kinds} at the layers 0 to "
            f"{self.module.hooked.cfg.n_layers - 1}, and the hooks of TransformerLens."
        )


def wrap(hooked: Any, *, id: str | None = None) -> Model:
    """Use a HookedTransformer; it stays yours and is left as it was found.

    Args:
        hooked: with its tokenizer.
        id: what to call it; by default the name that TransformerLens has for it.
    Raises: ModelError for something else, or without a fast tokenizer.
    """
    if not isinstance(hooked, nn.Module) or not hasattr(hooked, "hook_dict") or not hasattr(hooked, "cfg"):
        raise ModelError(f"This needs a HookedTransformer of TransformerLens. Got {type(hooked).__name__}.")
    cfg: Any = hooked.cfg
    return _LensModel(_AsTransformers(hooked), fast(hooked.tokenizer), id or str(cfg.model_name))

"""Autoencoders as the dictionary_learning library keeps them: a folder with `config.json` and `ae.pt`."""

import re
from pathlib import Path
from typing import Any

from itda.adapters.directions import dictionary_of
from itda.adapters.foreign_files import checkpoint, json_object, missing, number
from itda.data.dictionary import Dictionary

CONFIG, WEIGHTS = "config.json", "ae.pt"
_RESIDUAL = re.compile(r"resid_post_layer_(\d+)")
"""What its scripts call the output of a layer."""
_BIASES = ("b_dec", "bias", "decoder_bias", "decoder.bias")
"""Its classes have named the bias of the decoder in each of these ways."""


def read(folder: str | Path) -> Dictionary:
    """Read the decoder of an autoencoder as a dictionary of directions, without sources.

    `ae.pt` could hold any Python object: PyTorch's loader for weights reads it, which makes tensors and runs nothing.

    Raises: FormatError if a file is missing or damaged, or holds no decoder.
    """
    where = Path(folder)
    trainer = json_object(where / CONFIG).get("trainer")
    facts: dict[str, Any] = trainer if isinstance(trainer, dict) else {}
    weights = checkpoint(where / WEIGHTS)
    if "W_dec" in weights:
        decoder = weights["W_dec"]
    elif "decoder.weight" in weights:  # a linear map from latents to activations
        decoder = weights["decoder.weight"].T
    else:
        raise missing(where / WEIGHTS, "W_dec, decoder.weight", weights)
    kind, place = facts.get("dict_class"), facts.get("submodule_name")
    named = _RESIDUAL.fullmatch(place) if isinstance(place, str) else None
    return dictionary_of(
        decoder,
        next((weights[name] for name in _BIASES if name in weights), None),
        where=where / WEIGHTS,
        method=f"dictionary_learning {kind}" if isinstance(kind, str) else "dictionary_learning",
        steps=number(facts.get("k")),
        facts={"hook_name": place, "model_name": facts.get("lm_name"), "site": named and f"resid_post.{named[1]}"},
    )

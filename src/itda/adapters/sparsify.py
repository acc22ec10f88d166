"""Sparse coders as EleutherAI's sparsify keeps them: a folder with `cfg.json` and `sae.safetensors`."""

from pathlib import Path

from itda.adapters.directions import dictionary_of
from itda.adapters.foreign_files import json_object, missing, number, tensors
from itda.data.dictionary import Dictionary
from itda.errors import FormatError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def read(folder: str | Path) -> Dictionary:
    """Read the decoder of a sparse coder as a dictionary of directions, without sources.

    The mean is its decoder's bias, steps its k; a pursuit takes the place of its encoder.

    Raises: FormatError if a file is missing or damaged, or it is a transcoder, whose decoder belongs to another place
        than its encoder.
    """
    where = Path(folder)
    config, weights = json_object(where / CONFIG), tensors(where / WEIGHTS)
    if config.get("transcode") or "W_skip" in weights:
        raise FormatError(
            f"{where} holds a transcoder: what it decodes is added elsewhere than what it encodes is read. "
            "A dictionary has one place."
        )
    if "W_dec" not in weights:
        raise missing(where / WEIGHTS, "W_dec", weights)
    facts = {"activation": config.get("activation"), "hook_name": config.get("hookpoint")}
    return dictionary_of(
        weights["W_dec"], weights.get("b_dec"), where=where / WEIGHTS, method="sparsify", steps=number(config.get("k")),
        facts=facts,
    )  # fmt: skip

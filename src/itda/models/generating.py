"""transformers' `generate`, with errors that say what to do."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from itda.errors import ItdaError, OptionError
from itda.models.loading import Model

_GIVEN = ("input_ids", "inputs_embeds", "attention_mask", "max_length")


def go_on(model: Model, inputs: dict[str, Tensor], new_tokens: int, options: Mapping[str, Any]) -> Tensor:
    """What a model makes of prompts, int64 (B, T): the prompts and what it wrote.

    Args:
        model: one that generates.
        inputs: `input_ids` and `attention_mask` (B, prompt).
        new_tokens: at most so many.
        options: of transformers' `generate`.
    Raises: OptionError for options that it refuses.
    """
    if given := [name for name in _GIVEN if name in options]:
        raise OptionError(f"{given[0]} is not for this: what is read are the prompts. Leave it out.")
    told = {"tokenizer": model.tokenizer} if {"stop_strings", "generation_config"} & set(options) else {}
    try:
        found: Tensor = model.module.generate(**inputs, max_new_tokens=new_tokens, **{**told, **options})
    except ItdaError:
        raise
    except ValueError as error:
        raise OptionError(f"transformers' generate refuses these options: {error}") from error
    return found

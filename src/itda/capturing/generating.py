"""Activations of what a model writes, taken while it writes it."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.capturing.options import CaptureOptions
from itda.data.activations import Activations
from itda.data.corpus import document_id
from itda.data.provenance import Provenance
from itda.data.sources import Sources, Window
from itda.errors import CorpusError, ModelError, OptionError
from itda.models import tokenizing
from itda.models.generating import go_on
from itda.models.hooks import inference, recording
from itda.models.loading import Model, checked_model
from itda.options import listed, seed_number, whole
from itda.shapes import finite

_ONE_BY_ONE = {"num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False}
_NOT_OURS = (
    *_ONE_BY_ONE, "max_new_tokens", "max_length", "output_hidden_states", "assistant_model", "assistant_early_exit",
    "prompt_lookup_num_tokens", "num_beam_groups", "penalty_alpha",
)  # fmt: skip
"""Options of `generate` with which it gives another answer, or another pass for each token, than is read here."""


def capture_generation(
    model: Model,
    prompts: Sequence[str],
    site: str | None = None,
    *,
    new_tokens: int = 64,
    prompt: bool = False,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Activations:
    """Let a model go on from prompts, and take the activations of what it writes as it writes it.

    A steered model is read as it is steered: open `vector.apply(model)` around this. The last token of each text has no
    activation, since the model stops before it reads it.

    Args:
        model: one that writes: causal, with an output over its vocabulary.
        prompts: texts to go on from; those of a chat as the template writes them.
        site: a place such as `resid_post.2`; the middle layer by default.
        new_tokens: how many it writes at most.
        prompt: take the prompts' own tokens too.
        seed: of what is drawn, where `do_sample=True` is among the options.
        progress: draw a bar on stderr.
        options: of transformers' `generate` (do_sample, temperature, top_p, ...).
    Returns: Activations; the documents are the whole texts, prompts and what was written.
    Raises: ModelError for a model that does not write or runs elsewhere; CorpusError without prompts; SiteError.
    """
    checked_model(model)
    new_tokens = whole("new_tokens", new_tokens)
    seed = seed_number(seed)
    given = [prompts] if isinstance(prompts, str) else listed("prompts", prompts)
    if not given or not all(isinstance(text, str) and text for text in given):
        raise CorpusError("There must be prompts, texts that are not empty, to go on from.")
    if model.remote or not hasattr(model.module, "generate") or not model.predicts:
        raise ModelError(f"{model.id!r} does not write text here, so there is nothing to read while it does.")
    foreign = [name for name in _NOT_OURS if name in options]
    if foreign:
        raise OptionError(
            f"{foreign[0]} is not for this: one text is written for each prompt, a token a pass; say how long by "
            "new_tokens."
        )
    place = model.site(site or model.middle_site)
    parts = []
    with progress_bars.bar("write", len(given), show=progress) as advance:
        for number, text in enumerate(given):
            torch.manual_seed(seed + number)
            ids, values = _written(model, text, place, new_tokens, options)
            parts.append((*ids, values))
            advance(1)
    rows, sources = zip(*(_rows(model, *part, own=prompt) for part in parts), strict=True)
    joined = Sources.concatenate(sources)
    documents = tuple(window.document for window in joined.windows)
    matrix = finite(torch.cat(rows), f"The activations at {place.name!r}")
    counts = {"rows": len(matrix), "sinks": 0, "special": 0, "tokens": sum(len(ids) for ids, _, _ in parts)}
    how = CaptureOptions(special_tokens="drop", sinks="keep", canonical=False, batch_size=1, seed=seed)
    provenance = Provenance(
        model=model.record,
        site=place.name,
        corpus=hashlib.blake2b("".join(documents).encode(), digest_size=16).hexdigest(),
        corpus_name=f"what the model wrote after {len(given):,} prompts",
        capture={**asdict(how), "window": model.window, "counts": counts},
        heads=place.heads,
    )
    return Activations(matrix, joined, provenance, tuple(dict.fromkeys(documents)))


def _written(
    model: Model, text: str, place: Any, new_tokens: int, options: dict[str, Any]
) -> tuple[tuple[list[int], int], Tensor]:
    """The ids of prompt and continuation, how many are the prompt's, and the activations of all but the last."""
    cut = tokenizing.windows(model, [text], length=model.positions)[0]
    if len(cut) != 1 or len(cut[0]) + new_tokens > model.positions:
        raise CorpusError(
            f"This prompt and {new_tokens} tokens more are longer than the {model.positions} positions of "
            f"{model.id!r}: {text[:60]!r}."
        )
    ids = torch.from_numpy(cut[0].token_ids)[None].to(model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with recording(model.module, [place]) as found, inference(model.module):
        written = go_on(model, inputs, new_tokens, {**_padding(model), **options, **_ONE_BY_ONE})
    values = found[place.name]
    # With a cache each pass has the new token alone; without one, everything again
    rows = torch.cat([values[0][0], *(value[0, -1:] for value in values[1:])])
    if len(rows) != written.shape[1] - 1:
        raise OptionError(
            f"{len(rows)} activations were seen while {written.shape[1] - 1} tokens were read: with these options, or "
            "those of the model's own generation_config, the model does not write one token a pass."
        )
    return (written[0].tolist(), ids.shape[1]), rows.float().cpu()


def _padding(model: Model) -> dict[str, Any]:
    """What `generate` would otherwise guess, and say so."""
    tokenizer = model.tokenizer
    known = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return {} if known is None else {"pad_token_id": known}


def _rows(model: Model, ids: list[int], prompt: int, values: Tensor, *, own: bool) -> tuple[Tensor, Sources]:
    """The rows of one text that are wanted, and where each is in it."""
    special = set(tokenizing.special_ids(model).tolist())
    ends, shown = [], ""
    for count in range(1, len(ids) + 1):
        kept = [token for token in ids[:count] if token not in special]
        shown = model.tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        ends.append(len(shown))
    starts = [0, *ends[:-1]]
    places = [
        place for place in range(0 if own else prompt, len(values)) if ids[place] not in special
    ]  # fmt: skip
    numbered = torch.tensor(places, dtype=torch.int64)
    count = len(places)
    index = torch.cumsum(torch.tensor([token not in special for token in ids]).long(), 0) - 1
    return values[numbered], Sources(
        row=torch.arange(count),
        window=torch.zeros(count, dtype=torch.int64),
        char_start=torch.tensor(starts)[numbered],
        char_end=torch.tensor(ends)[numbered],
        token_id=torch.tensor(ids)[numbered],
        token_index=index[numbered],
        windows=(Window(document_id(shown), 0, shown),),
        token_names=tokenizing.token_names(model),
    )

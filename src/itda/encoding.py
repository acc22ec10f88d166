"""Corpus + model + dictionary -> codes, each with its source."""

from collections.abc import Mapping
from typing import Any

from itda import progress as progress_bars
from itda.capturing import Capture, CaptureOptions
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary
from itda.data.encoding import Encoding
from itda.data.sources import Sources
from itda.explaining import place_of
from itda.models.loading import Model
from itda.options import checked
from itda.pursuit import Codes, Coding, chosen_coding

# Of the capture a dictionary was built from, what decides which activations it is meant for
_INHERITED = ("window", "bos", "special_tokens", "sinks", "sink_ratio", "sink_norm", "roles")


def encode(
    dictionary: Dictionary,
    model: Model,
    corpus: Corpus,
    *,
    tokens: int | None = None,
    steps: int | None = None,
    coding: Coding | None = None,
    site: str | None = None,
    seed: int = 0,
    check_model: bool = True,
    backend: str = "auto",
    memory: int | str | None = None,
    progress: bool = True,
    **capture_options: Any,
) -> Encoding:
    """Write the activations of a corpus as codes, without ever holding them all.

    Args:
        dictionary: whose atoms the codes name.
        model: the model it was built on.
        corpus: what it reads.
        tokens: how many rows, spread evenly over the documents; all by default.
        steps, coding: instead of the dictionary's own coding.
        site: where, for a dictionary that was built from a bare array.
        seed: which tokens are taken when not all are.
        check_model: refuse a model with other weights than the dictionary's.
        backend: of the pursuit.
        memory: what inner products of the atoms may take, in bytes or as "2GiB"; None for half of what is free.
        progress: draw a bar on stderr.
        capture_options: fields of `itda.capturing.CaptureOptions`; those of the dictionary's own capture by default.
    Returns: codes and sources of N rows.
    Raises: MismatchError, CorpusError, ModelError, OptionError.
    """
    where = place_of(dictionary, model, site, check_model)
    options = capture_options_of(dictionary, {"tokens": tokens, "seed": seed, **capture_options})
    run = Capture(model, corpus, [where], options)
    used = chosen_coding(dictionary.coding, coding, steps)
    if memory is not None:
        dictionary.prepare(memory=memory)
    codes: list[Codes] = []
    sources: list[Sources] = []
    with progress_bars.bar("encode", run.total, show=progress) as advance:
        for block in (found[where] for found in run if found):
            codes.append(dictionary.encode(block.rows, coding=used, backend=backend))
            sources.append(block.sources)
            advance(len(block.rows))
    return Encoding(
        Codes.concatenate(codes), Sources.concatenate(sources), dictionary.fingerprint, used, run.provenance(where)
    )


def capture_options_of(dictionary: Dictionary, given: Mapping[str, Any]) -> CaptureOptions:
    """How activations are taken that a dictionary is meant for; what is given goes before its own capture.

    Raises: OptionError.
    """
    own = dictionary.provenance.capture if dictionary.provenance else {}
    inherited = {name: own[name] for name in _INHERITED if name in own}
    if "sink_ratio" in given:  # the norm that was found belongs to the ratio of then
        inherited.pop("sink_norm", None)
    return checked(CaptureOptions, {**inherited, **given})

"""Decoders of sparse autoencoders as dictionaries: unit directions that no text names."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itda.data.activations import Activations
from itda.data.build_records import BuildRecord, library_versions
from itda.data.dictionary import Dictionary
from itda.data.nearest import nearest_rows
from itda.data.sources import Sources
from itda.errors import ActivationError, FormatError, OptionError, ShapeError
from itda.pursuit import default_coding, default_steps


def dictionary_of(
    decoder: Tensor,
    bias: Tensor | None,
    *,
    where: Path,
    method: str,
    steps: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Dictionary:
    """A dictionary whose atoms are the rows of a decoder, so that a pursuit takes the place of the encoder.

    Atoms are numbered as the latents are; `sources[i].row` is the latent where dead ones, whose rows are zero, had to
    be left out.

    Args:
        decoder: (A, D), in units of the model's own activations.
        bias: (D,) that the autoencoder adds to what it decodes; None for none.
        where: the file it comes from, for messages.
        method: what made it, as in `sae_lens topk`.
        steps: latents that are active in a row, where the autoencoder fixes that.
        facts: what is known about it, kept in `build.options`.
    Raises: FormatError for a decoder that is no matrix, or holds values that are not finite.
    """
    if decoder.ndim != 2 or not decoder.numel() or not decoder.is_floating_point():
        raise FormatError(f"{where} holds a decoder of shape {tuple(decoder.shape)}, not a matrix of directions.")
    matrix = decoder.float()
    mean = torch.zeros(matrix.shape[1]) if bias is None else bias.float().reshape(-1)
    if len(mean) != matrix.shape[1]:
        raise FormatError(f"{where} holds a bias of {len(mean)} values for a decoder of width {matrix.shape[1]}.")
    if not bool(torch.isfinite(matrix).all() and torch.isfinite(mean).all()):
        raise FormatError(f"{where} holds values that are not finite.")
    lengths = torch.linalg.vector_norm(matrix, dim=1)
    kept = torch.nonzero(lengths > 0).flatten()
    if not len(kept):
        raise FormatError(f"{where} holds a decoder whose rows are all zero.")
    notes = ["A pursuit takes the place of the encoder, whose weights are not kept."]
    if len(kept) < len(matrix):
        notes.append(f"{len(matrix) - len(kept):,} of {len(matrix):,} latents have no direction, and are left out.")
    known = {name: value for name, value in (facts or {}).items() if value is not None}
    return Dictionary(
        atoms=torch.nn.functional.normalize(matrix[kept], dim=1),
        norms=torch.ones(len(kept)),
        mean=mean,
        sources=Sources.of_rows(len(matrix)).select(kept),
        coding=default_coding(min(steps or default_steps(matrix.shape[1]), len(kept))),
        build=BuildRecord(
            method=method, options=known, rows=0, threshold=None, unexplained=0.0, notes=tuple(notes),
            versions=library_versions(),
        ),
        usage_counts=torch.zeros(len(kept), dtype=torch.int64),
        usage_energy=torch.zeros(len(kept)),
        kind="learned",
    )  # fmt: skip


def with_examples(dictionary: Dictionary, activations: Activations) -> Dictionary:
    """The same directions, each with the activation most like it to show for it, and the place of these as its own.

    Explanations and pages then quote texts (`e.g.`), and neither model nor site have to be named any more. Which atoms
    are used, and how much, is counted on these activations too. `sources[i].row` stays the number of the latent.

    Args:
        dictionary: as `dictionary_of` makes it.
        activations: of the model and site that the autoencoder was trained on.
    Raises: OptionError for a dictionary whose atoms have sources already; ActivationError for rows that belong to no
        text; ShapeError for another width.
    """
    if dictionary.kind != "learned" or dictionary.sources.named:
        raise OptionError("These atoms have sources of their own, so they need no examples. Leave examples out.")
    if not isinstance(activations, Activations) or not activations.sources.named or not len(activations):
        raise ActivationError(
            "Examples are activations with their texts: give Activations, as itda.capture makes them."
        )
    if activations.rows.shape[1] != dictionary.width:
        raise ShapeError(
            f"The activations have width {activations.rows.shape[1]}, the autoencoder {dictionary.width}. "
            "Capture the place that it was trained on."
        )
    rows = activations.rows.float() - dictionary.mean
    norms = torch.linalg.vector_norm(rows, dim=1)
    some = torch.nonzero(norms > 0).flatten()
    example = some[nearest_rows(dictionary.atoms, rows[some], norms[some])]
    codes = dictionary.encode(activations.rows)
    return replace(
        dictionary,
        sources=replace(activations.sources.select(example), row=dictionary.sources.row),
        usage_counts=codes.usage(len(dictionary)),
        usage_energy=codes.energy(len(dictionary)),
        provenance=activations.provenance,
    )

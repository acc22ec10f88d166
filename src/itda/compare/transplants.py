"""A dictionary in another model: the activations that its atoms are named by, as that model has them."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.building.builder import unit_and_norm
from itda.building.calibrating import calibrated
from itda.capturing import capture_at_most, window_length
from itda.compare.places import read_at
from itda.data.activations import Activations
from itda.data.build_records import BuildRecord, library_versions
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.lots import evenly
from itda.data.mixtures import Mixtures
from itda.data.provenance import Provenance
from itda.data.sources import Sources
from itda.data.token_means import TokenMeans, TokenMeansAccumulator
from itda.errors import CorpusError, MismatchError, OptionError
from itda.models.loading import Model, checked_model
from itda.options import whole
from itda.pursuit import prepare, pursue

_SAMPLE = 8192  # rows on which use is counted
_LEAST = 1e-6  # of the usual length: an atom shorter than that is the mean


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Transplant(Dictionary):
    """The named atoms of one dictionary in the space of another model: a dictionary there, that knows what it was."""

    original: Dictionary
    """What was transplanted, with all its atoms."""
    kept: Tensor
    """int64 (A,), ascending: which atoms of the original these are."""

    @property
    def dropped(self) -> int:
        """Atoms of the original that end where no token of the other model does, or are its mean; `build.notes` says
        how many are which."""
        return len(self.original) - len(self)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> Self:
        """Not kept in files: what `save_pretrained` writes is a dictionary like any other.

        Raises: OptionError.
        """
        raise OptionError("A transplant is saved as a Dictionary: open it with Dictionary.from_pretrained.")


def transplant(
    dictionary: Dictionary,
    model: Model,
    corpus: Corpus,
    site: str | None = None,
    *,
    tokens: int = 100_000,
    progress: bool = True,
) -> Transplant:
    """The same named atoms in another model: its activations at the same places of the same texts.

    Exact for atoms that are activations and for mixtures of them. Where tokenizers differ, the other model reads the
    text of each window by itself (one too long for it in stretches that overlap by half), and atoms at whose end none
    of its tokens ends are dropped and counted.

    Args:
        dictionary: of one model; atoms that a text names.
        model: the other one.
        corpus: has the documents that the dictionary was built from.
        site: where in the other model; the same place by default.
        tokens: of these documents, from which the other model's mean and token means are taken, at most.
        progress: draw bars on stderr.
    Returns: a Dictionary of the other model; `kept` says which atoms it has, `dropped` how many it lost.
    Raises: OptionError for learned atoms or those of a bare array; MismatchError for documents that are not there, or
        no atom that can be carried over; SiteError for a place that the model does not have.
    """
    checked_dictionary(dictionary).check_named("A transplant")
    checked_model(model)
    tokens = whole("tokens", tokens)
    if dictionary.provenance is None or not dictionary.sources.named:
        raise OptionError("A transplant takes atoms that texts name. These were built from a bare array.")
    if not isinstance(corpus, Corpus):
        raise CorpusError(f"A transplant needs an itda.Corpus. Got {type(corpus).__name__}; try Corpus.from_texts.")
    where = model.site(site or dictionary.site).name
    with progress_bars.bar("transplant", None, show=progress):
        atoms = _carried(dictionary, model, corpus, where)
    sample = _sample(dictionary.provenance, model, corpus.without(set(corpus.ids).difference(dictionary.documents)),
                     where, tokens, progress)  # fmt: skip
    means = _token_means(sample)
    mean = means.overall if bool(dictionary.mean.any()) else torch.zeros(sample.width)
    offsets = atoms.rows - mean
    lengths = torch.linalg.vector_norm(offsets, dim=1)
    rest = (
        torch.nonzero(lengths > _LEAST * lengths.median())[:, 0] if len(lengths) else torch.empty(0, dtype=torch.int64)
    )
    if len(rest) < dictionary.coding.steps:
        raise MismatchError(
            f"Only {len(rest):,} of {len(dictionary):,} atoms end where a token of {model.id!r} does and are not its "
            f"mean, fewer than the {dictionary.coding.steps} steps of a code."
        )
    units, norms = unit_and_norm(offsets[rest])
    kept, prepared = atoms.kept[rest], prepare(units)
    some = sample.rows[evenly(len(sample), _SAMPLE)] - mean
    coding = calibrated(dictionary.coding.asked, some, prepared)
    codes = pursue(some, prepared, coding)
    homeless, zero = len(dictionary) - len(atoms.kept), len(atoms.kept) - len(kept)
    notes = [f"The atoms were chosen in {dictionary.model_id!r} at {dictionary.site!r}."]
    notes += [f"{homeless:,} others end where no token of this model does."] if homeless else []
    notes += [f"{zero:,} others are the mean of this model's activations."] if zero else []
    return Transplant(
        atoms=prepared.atoms.clone(),
        norms=norms,
        mean=mean,
        sources=atoms.sources.select(rest),
        coding=coding,
        build=BuildRecord(
            method=dictionary.build.method,
            options={"transplanted": dictionary.fingerprint, **dictionary.build.options},
            rows=len(sample),
            threshold=None,
            unexplained=round(float(codes.unexplained.mean()), 6),
            notes=tuple(notes),
            versions=library_versions(),
        ),
        usage_counts=codes.usage(len(kept)),
        usage_energy=codes.energy(len(kept)),
        documents=dictionary.documents,
        provenance=sample.provenance,
        token_means=means,
        kind=dictionary.kind,
        mixtures=None if atoms.mixtures is None else atoms.mixtures.select(rest),
        original=dictionary,
        kept=kept,
    )


class _Carried(NamedTuple):
    """Atoms as another model has them."""

    kept: Tensor
    """int64 (n,), ascending: which."""
    rows: Tensor
    """float32 (n, D): the activations, or the mixtures of them."""
    sources: Sources
    mixtures: Mixtures | None


def _carried(dictionary: Dictionary, model: Model, corpus: Corpus, site: str) -> _Carried:
    assert dictionary.provenance is not None
    mixed = dictionary.mixtures
    if mixed is None:
        places, found, sources = read_at(model, [site], dictionary.sources, corpus, dictionary.provenance)
        return _Carried(places, found[site], sources, None)
    places, read, sources = read_at(model, [site], mixed.sources, corpus, dictionary.provenance)
    row = torch.full((len(mixed.sources),), -1)
    row[places] = torch.arange(len(places))
    row = row.reshape(mixed.weights.shape)
    kept = torch.nonzero(((row >= 0) | (mixed.weights == 0)).all(1))[:, 0]
    # An ingredient without weight stands for the first one: see Mixtures
    row = torch.where(row[kept] < 0, row[kept, :1], row[kept])
    weights = mixed.weights[kept]
    mixtures = Mixtures(weights, sources.select(row.flatten()))
    return _Carried(kept, torch.einsum("ap,apd->ad", weights, read[site][row]), mixtures.largest, mixtures)


def _sample(named: Provenance, model: Model, corpus: Corpus, site: str, tokens: int, progress: bool) -> Activations:
    """Activations of the other model on the documents of the dictionary, as its own were captured."""
    options = {
        name: named.capture[name] for name in ("roles", "special_tokens", "sinks", "seed") if name in named.capture
    }
    if model.record.tokenizer == named.model.tokenizer:
        options |= {"window": window_length(model, named.capture), "bos": named.capture.get("bos")}
    asked = named.capture.get("tokens")
    return capture_at_most(min(tokens, asked or tokens), model, corpus, site, progress=progress, **options)


def _token_means(sample: Activations) -> TokenMeans:
    sums = TokenMeansAccumulator(sample.width)
    sums.update(sample.rows, sample.sources.token_id)
    means = sums.finish()
    assert means is not None
    return means

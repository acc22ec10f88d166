"""What is done for one part: plain data that can be sent to another process, and called there with a number."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from itda.building import BuildRequest, built_from_model, built_from_rows
from itda.capturing import Capture, CaptureOptions, capture
from itda.data import files
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary
from itda.data.entries import StoredActivations
from itda.data.store import Store
from itda.encoding import encode
from itda.errors import ClusterError, FormatError, OptionError
from itda.evaluation import tally_windows
from itda.explaining import place_of
from itda.models import fingerprints
from itda.models.loading import Model, checked_model, load_model, locate
from itda.progress import SILENT
from itda.pursuit import Coding
from itda.scale import results
from itda.scale.options import ScaleOptions

SAMPLE = "sample"


@dataclass(frozen=True)
class ModelSource:
    """A model, or what a worker needs to load it."""

    name: str | None
    model: Model | None
    options: Mapping[str, Any]
    weights: str | None
    """Hash of the files, so that a process does not take what it has loaded for what is there now."""

    @classmethod
    def of(cls, model: str | Path | Model, options: Mapping[str, Any] | None, how: ScaleOptions) -> "ModelSource":
        """A name with options of `load_model`, or a model as it is.

        Raises: OptionError, ModelError.
        """
        given = dict(options or {})
        if not isinstance(model, str | Path):
            if given:
                raise OptionError(f"load= is for the name of a model. Got a model, and load={given!r}; leave it out.")
            return cls(None, checked_model(model), {}, None)
        if not how.gpus:
            given.setdefault("device", "cpu")  # all workers of a machine would take its first GPU
        folder = locate(str(model))[1]
        return cls(str(model), None, given, fingerprints.files_hash(folder) if folder else None)

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, as plain values."""
        if self.model is not None:
            return asdict(self.model.record)
        options = {name: str(value) for name, value in self.options.items()}
        return {"name": self.name, "weights": self.weights, **options}

    def open(self) -> Model:
        """The model; a process loads it once."""
        if self.model is not None:
            return self.model
        if _loaded.get("source") != self.facts:
            _loaded.clear()
            _loaded.update(source=self.facts, model=load_model(str(self.name), **self.options))
        model: Model = _loaded["model"]
        return model


_loaded: dict[str, Any] = {}
"""The last model that this process has loaded, and what it was loaded from."""


class Surveyed(NamedTuple):
    """What there is in a part."""

    rows: int
    sites: list[str]
    width: int
    """Of the model's residual stream."""
    sink_norms: dict[str, float]
    """Those of the first part: one norm for all, found once."""


@dataclass(frozen=True, kw_only=True)
class OfModel:
    """Work for which a model reads a part of a corpus."""

    model: ModelSource
    parts: tuple[Corpus, ...]


@dataclass(frozen=True, kw_only=True)
class OfSites(OfModel):
    """Work on the activations of some sites."""

    sites: tuple[str, ...] | None
    """The middle of the model for None."""
    capture: CaptureOptions

    def names(self, model: Model) -> list[str]:
        """The sites."""
        return list(self.sites or [model.middle_site])


@dataclass(frozen=True, kw_only=True)
class SurveyPart(OfSites):
    """Count what there is to take."""

    def __call__(self, number: int) -> Surveyed:
        """Rows of all tokens, sites, width, and what is a sink."""
        model = self.model.open()
        run = Capture(model, self.parts[number], self.names(model), replace(self.capture, tokens=None))
        norms = run.sink_norms() if number == 0 else {}
        return Surveyed(run.total, [site.name for site in run.sites], model.width, norms)


@dataclass(frozen=True, kw_only=True)
class CapturePart(OfSites):
    """Take activations into a store."""

    tokens: tuple[int | None, ...]
    """Of each part."""
    store: Path
    dtype: str | None
    every: float

    def __call__(self, number: int) -> dict[str, Path]:
        """Site -> the folder of its entry."""
        model = self.model.open()
        options = {**asdict(self.capture), "tokens": self.tokens[number]}
        try:
            store = Store(self.store)
        except FormatError as error:
            raise ClusterError(
                f"A worker does not find the store {self.store}. Put it where it is the same for all machines."
            ) from error
        stored = capture(
            model, self.parts[number], self.names(model), store=store, dtype=self.dtype, every=self.every,
            progress=False, **options,
        )  # fmt: skip
        return {site: entry.folder for site, entry in stored.items()}


@dataclass(frozen=True, kw_only=True)
class BuildPart(OfSites):
    """Build a dictionary at each site."""

    tokens: tuple[int | None, ...]
    """Of each part."""
    request: BuildRequest
    folder: Path
    every: float

    def __call__(self, number: int) -> None:
        """Leave a dictionary and a sample of its rows at each site in the folder."""
        place = results.place_to_write(self.folder, number)
        model = self.model.open()
        options = replace(self.capture, tokens=self.tokens[number])
        run = Capture(model, self.parts[number], self.names(model), options)
        built = built_from_model(run, self.request, checkpoint=place / results.CHECKPOINT, every=self.every, bar=SILENT)
        for site, (dictionary, sample) in built.items():
            _save(place, site, dictionary, sample)
        results.finish(place, {"sites": list(built)})


@dataclass(frozen=True, kw_only=True)
class BuildStoredPart:
    """Build a dictionary from an entry of a store."""

    entries: tuple[Path, ...]
    request: BuildRequest
    folder: Path
    every: float

    def __call__(self, number: int) -> None:
        """Leave a dictionary and a sample of its rows in the folder."""
        place = results.place_to_write(self.folder, number)
        stored = StoredActivations(self.entries[number]).whole()
        dictionary, sample = built_from_rows(
            stored, self.request, checkpoint=place / results.CHECKPOINT, every=self.every, bar=SILENT
        )
        _save(place, stored.site, dictionary, sample)
        results.finish(place, {"sites": [stored.site]})


def _save(place: Path, site: str, dictionary: Dictionary, sample: torch.Tensor) -> None:
    dictionary.save_pretrained(place / site, overwrite=True)
    files.write_folder(place / f"{site}.{SAMPLE}", SAMPLE, {}, {"rows": {"rows": sample}}, overwrite=True)


def load_built(place: Path, site: str) -> tuple[Dictionary, torch.Tensor]:
    """The dictionary of a part at a site, and some of its rows.

    Raises: FormatError.
    """
    _, tensors = files.read_folder(place / f"{site}.{SAMPLE}", SAMPLE)
    return Dictionary.from_pretrained(place / site), tensors["rows"]["rows"]


@dataclass(frozen=True, kw_only=True)
class EncodePart(OfModel):
    """Write the codes of a part."""

    dictionary: Dictionary
    options: Mapping[str, Any]
    tokens: tuple[int | None, ...]
    folder: Path

    def __call__(self, number: int) -> None:
        """Leave an encoding in the folder."""
        place = results.place_to_write(self.folder, number)
        encoding = encode(
            self.dictionary, self.model.open(), self.parts[number], tokens=self.tokens[number], progress=False,
            **self.options,
        )  # fmt: skip
        encoding.save(place / "encoding", overwrite=True)
        results.finish(place, {})


@dataclass(frozen=True, kw_only=True)
class EvaluatePart(OfModel):
    """Measure a dictionary on a part."""

    dictionary: Dictionary
    site: str | None
    check_model: bool
    tokens: int | None
    steps: int | None
    coding: Coding | None
    baselines: bool
    seed: int
    backend: str
    memory: int | str | None
    folder: Path

    def __call__(self, number: int) -> None:
        """Leave a tally in the folder."""
        place = results.place_to_write(self.folder, number)
        model = self.model.open()
        where = place_of(self.dictionary, model, self.site, self.check_model)
        tally = tally_windows(
            self.dictionary, model, self.parts[number], where, tokens=self.tokens, steps=self.steps,
            coding=self.coding, baselines=self.baselines, seed=self.seed, backend=self.backend, memory=self.memory,
            progress=False,
        )  # fmt: skip
        tally.save(place / "tally")
        results.finish(place, {"model": model.id, "site": where})

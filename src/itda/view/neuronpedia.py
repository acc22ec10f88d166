"""Dictionaries in the format of Neuronpedia's exports, so that they can be shown there.

    MODEL_ID/SOURCE_ID/
      model.jsonl  release.jsonl  source.jsonl  sourceset.jsonl
      features/batch-0.jsonl.gz       one object a line: an atom
      activations/batch-0.jsonl.gz    a stretch of text in which an atom is strong, with its coefficient at every token
      explanations/batch-0.jsonl.gz   what an atom is: the text it comes from

An import from its administration panel, or from its own data store, reads such a folder.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.drafts import replaced_folder
from itda.errors import OptionError, OutputError
from itda.models.hook_names import to_hook
from itda.options import whole
from itda.view.records import Records

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BATCH = 1024  # atoms in a file
_BINS = 40
_DIGITS = 4
_AUTHOR = "itda"


@dataclass(frozen=True, kw_only=True)
class Release:
    """Under which names a dictionary is shown there."""

    model: str
    """As Neuronpedia has the model: `gpt2-small`."""
    source_set: str
    """Short, without the layer: `itda-res-16k`."""
    name: str
    """Of the release: letters, digits and dashes."""
    title: str
    author: str
    """Shown as the creator."""
    creator: str = ""
    """Id of the creator's account there; whoever imports the folder may set it."""
    url: str | None = None
    created: str | None = None
    """ISO 8601; now by default. With it, the same dictionary gives the same bytes."""

    def __post_init__(self) -> None:
        for field in ("model", "source_set", "name"):
            value = getattr(self, field)
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise OptionError(f"{field} must be letters, digits, dots and dashes. Got {value!r}.")
        if self.created is not None:
            try:
                datetime.fromisoformat(self.created)
            except (TypeError, ValueError) as error:
                raise OptionError(f"created must be a time as 2026-01-31T12:00:00. Got {self.created!r}.") from error


def place_of(dictionary: Dictionary, folder: str | Path, release: Release, *, overwrite: bool = False) -> Path:
    """The folder of the source, checked before anything is prepared for it.

    Raises: OptionError for a place in the model that has no name there; OutputError if the folder is taken.
    """
    where = Path(folder) / release.model / _source_name(dictionary, release)
    if where.exists() and not overwrite:
        raise OutputError(f"{where} exists. Choose another folder, or replace it with overwrite=True (--overwrite).")
    if where.exists() and not (where / "source.jsonl").is_file():
        raise OutputError(f"{where} is no source that was exported. Choose another folder.")
    return where


def _source_name(dictionary: Dictionary, release: Release) -> str:
    site = checked_dictionary(dictionary).site
    if to_hook(site) is None:
        raise OptionError(f"Neuronpedia names places as TransformerLens does, which has no name for {site!r}.")
    return f"{site.rpartition('.')[2]}-{release.source_set}"


def export(
    dictionary: Dictionary,
    records: Records,
    folder: str | Path,
    release: Release,
    *,
    texts: int = 20,
    overwrite: bool = False,
) -> Path:
    """Write a dictionary as Neuronpedia exports one, whole or not at all.

    Args:
        dictionary: built from a model, at a place that TransformerLens has a name for.
        records: what `itda.view.preparing.prepare` made of it with a text.
        folder: where; the layout above is made in it.
        release: the names.
        texts: of each atom so many stretches of text, the strongest first.
        overwrite: replace the folder of the source, if it is one.
    Returns: the folder of the source.
    Raises: OptionError for records of another dictionary, or without a text; OutputError if it exists.
    """
    texts = whole("texts", texts)
    where = place_of(dictionary, folder, release, overwrite=overwrite)
    if records.facts["fingerprint"] != dictionary.fingerprint:
        raise OptionError("These records were made of another dictionary. Prepare them again.")
    if not len(records.tokens):
        raise OptionError("These records were prepared without a text, so there is nothing to show. Give one.")
    made = _Source(
        dictionary, records, release, _source_name(dictionary, release), str(to_hook(dictionary.site)), texts
    )
    with replaced_folder(where.resolve()) as draft:
        for name, line in made.about().items():
            (draft / f"{name}.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        for kind, lines in (
            ("features", made.feature), ("activations", made.activations), ("explanations", made.explanation)
        ):  # fmt: skip
            (draft / kind).mkdir()
            for batch, first in enumerate(range(0, len(dictionary), _BATCH)):
                atoms = range(first, min(first + _BATCH, len(dictionary)))
                content = (line for atom in atoms for line in lines(atom))
                (draft / kind / f"batch-{batch}.jsonl.gz").write_bytes(_packed(content))
    return where


class _Source:
    def __init__(
        self, dictionary: Dictionary, records: Records, release: Release, source: str, hook: str, texts: int
    ) -> None:
        self.dictionary, self.records, self.release = dictionary, records, release
        self.source, self.hook, self.texts = source, hook, texts
        self.created = release.created or datetime.now(UTC).replace(microsecond=0, tzinfo=None).isoformat()
        windows = records.tokens[:, 0]
        self._first = np.searchsorted(windows, np.arange(int(windows.max()) + 2))
        """Where the tokens of each window begin."""

    def about(self) -> dict[str, dict[str, Any]]:
        """The lines that say what the source is."""
        release, shown = self.release, {"creatorId": self.release.creator, "createdAt": self.created}
        windows = len(np.unique(self.records.tokens[:, 0]))
        capture = self.dictionary.provenance.capture if self.dictionary.provenance else {}
        corpus = self.records.facts["text"]
        return {
            "model": {"id": release.model, "instruct": False, "displayNameShort": release.model,
                      "displayName": release.model, "visibility": "PUBLIC", "updatedAt": self.created, **shown},
            "release": {"name": release.name, "description": release.title, "descriptionShort": release.title,
                        "creatorName": release.author, "creatorNameShort": release.author,
                        "urls": [release.url] if release.url else [], "visibility": "PUBLIC", **shown},
            "sourceset": {"modelId": release.model, "name": release.source_set, "hasDashboards": True,
                          "visibility": "PUBLIC", "description": repr(self.dictionary), "type": "",
                          "creatorName": release.author, "releaseName": release.name, **shown},
            "source": {"id": self.source, "modelId": release.model, "setName": release.source_set,
                       "hasDashboards": True, "inferenceEnabled": False, "visibility": "PUBLIC", "dataset": corpus,
                       "num_prompts": windows, "num_tokens_in_prompt": capture.get("window"),
                       "notes": f"itda, {self.dictionary.build.method}; {self.dictionary.coding}", **shown},
        }  # fmt: skip

    def feature(self, atom: int) -> Iterator[dict[str, Any]]:
        """An atom: its vector, what it does at the output, and how often it is used."""
        records, values = self.records, self.records.coefficients_of(atom)
        heights, edges = np.histogram(values, bins=_BINS) if len(values) else (np.empty(0), np.empty(1))
        lens = {name: self._words(atom, side) for side, name in enumerate(("pos", "neg"))}
        largest = max(0.0, float(values.max())) if len(values) else 0.0
        yield {
            **self._key(atom), "creatorId": self.release.creator, "createdAt": self.created,
            "maxActApprox": _number(largest), "hasVector": True, "vector": _numbers(self.dictionary.atoms[atom]),
            "vectorLabel": None, "vectorDefaultSteerStrength": _number(largest), "hookName": self.hook,
            "topkCosSimIndices": records.nearest[atom].tolist(), "topkCosSimValues": _numbers(records.cosines[atom]),
            "neg_str": lens["neg"][0], "neg_values": lens["neg"][1],
            "pos_str": lens["pos"][0], "pos_values": lens["pos"][1],
            "frac_nonzero": _number(len(values) / len(records.tokens), 6),
            "freq_hist_data_bar_heights": heights.astype(int).tolist(),
            "freq_hist_data_bar_values": _numbers((edges[:-1] + edges[1:]) / 2),
            "logits_hist_data_bar_heights": [], "logits_hist_data_bar_values": [], "decoder_weights_dist": [],
            **{f"{of}_{name}": [] for of, names in _ABSENT.items() for name in names},
        }  # fmt: skip

    def activations(self, atom: int) -> Iterator[dict[str, Any]]:
        """The stretches of text in which an atom is strongest, each once."""
        records, seen = self.records, set[int]()
        places = records.atoms.shape[1]
        for row in (records.uses_of(atom) // places).tolist():
            window = int(records.tokens[row, 0])
            if window in seen:
                continue
            seen.add(window)
            rows = slice(int(self._first[window]), int(self._first[window + 1]))
            text = records.windows[window]
            tokens = [text[start:end] for _, start, end in records.tokens[rows].tolist()]
            own = np.where(records.atoms[rows] == atom, records.coefficients[rows], 0).sum(1)
            yield {
                "id": self._id("activation", atom, window), "tokens": tokens, **self._key(atom),
                "maxValue": _number(own.max()), "maxValueTokenIndex": int(own.argmax()),
                "minValue": _number(own.min()), "values": _numbers(own), "creatorId": self.release.creator,
                "createdAt": self.created, "dataSource": records.facts["text"], "dataIndex": records.document(window),
                "dfaValues": [], "dfaTargetIndex": None, "dfaMaxValue": None, "lossValues": [],
                "logitContributions": None, "binMin": None, "binMax": None, "binContains": None,
                "qualifyingTokenIndex": row - rows.start,
            }  # fmt: skip
            if len(seen) == self.texts:
                return

    def explanation(self, atom: int) -> Iterator[dict[str, Any]]:
        """The text that an atom comes from, which is what it is; a learned direction has none."""
        if self.dictionary.kind == "learned":
            return
        yield {
            "id": self._id("explanation", atom), **self._key(atom), "description": self.dictionary.describe(atom),
            "authorId": self.release.creator, "typeName": None, "explanationModelName": None,
            "notes": f"{_AUTHOR}: the text this atom was taken from, its token in brackets", "createdAt": self.created,
        }  # fmt: skip

    def _key(self, atom: int) -> dict[str, str]:
        return {"modelId": self.release.model, "layer": self.source, "index": str(atom)}

    def _id(self, *parts: Any) -> str:
        """25 letters and digits, the same for the same thing."""
        name = json.dumps([self.release.model, self.source, self.dictionary.fingerprint, *parts])
        return "c" + hashlib.blake2b(name.encode(), digest_size=12).hexdigest()

    def _words(self, atom: int, side: int) -> tuple[list[str], list[float]]:
        lens = zip(self.records.lens[atom, side], self.records.lens_values[atom, side], strict=True)
        kept = [(self.records.words[int(place)], value) for place, value in lens if place >= 0]
        return [word for word, _ in kept], _numbers(np.array([value for _, value in kept]))


_ABSENT = {
    "neuron_alignment": ("indices", "values", "l1"),
    "correlated_neurons": ("indices", "pearson", "l1"),
    "correlated_features": ("indices", "pearson", "l1"),
}
"""What a dashboard may have and nothing here measures."""


def _number(value: Any, digits: int = _DIGITS) -> float:
    return round(float(value), digits)


def _numbers(values: Any) -> list[float]:
    return [_number(value) for value in np.asarray(values, dtype=np.float64).tolist()]


def _packed(lines: Iterable[dict[str, Any]]) -> bytes:
    content = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    return gzip.compress(content.encode(), compresslevel=5, mtime=0)  # a time would make other bytes

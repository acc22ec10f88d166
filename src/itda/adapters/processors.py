"""Models whose inputs are no text: vision transformers and other encoders, through a processor instead of a tokenizer.

    from itda.adapters import processors

    model = processors.load("google/vit-base-patch16-224")
    activations = processors.capture(model, {"cat.png": image, ...}, "resid_post.6")
    dictionary = itda.build_from_activations(activations, atoms=4096)

A source is an item and a position in it, read as `cat.png[patch 3, 4]`. What needs a tokenizer or a next-token loss is
not for these; codes, stability, overlap and directions are.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from itda import progress as progress_bars
from itda.data.activations import Activations
from itda.data.provenance import Provenance
from itda.data.sources import Sources, item_id
from itda.errors import CorpusError, ModelError, OptionError
from itda.models import fingerprints
from itda.models.hooks import read
from itda.models.loading import first_lines
from itda.models.sites import Site, list_sites, resolve
from itda.options import whole
from itda.shapes import finite


class ItemModel:
    """A transformers model and what makes its inputs of items; `load` or `wrap` makes one."""

    def __init__(self, module: Any, prepare: Callable[[list[Any]], Mapping[str, Tensor]], id: str, rules: str) -> None:
        self.module, self.prepare, self.id, self._rules = module, prepare, id, rules

    def __repr__(self) -> str:
        return f"ItemModel({self.id}: {type(self.module).__name__})"

    def sites(self) -> list[Site]:
        """The named places of the model, layer by layer."""
        return list_sites(self.module)

    def site(self, name: str) -> Site:
        """The place of that name.

        Raises: SiteError that names the nearest ones.
        """
        return resolve(self.module, name)

    @property
    def middle_site(self) -> str:
        """The residual stream after the middle layer."""
        return f"resid_post.{len([one for one in self.sites() if one.name.startswith('resid_post')]) // 2}"

    @cached_property
    def record(self) -> fingerprints.ModelRecord:
        """Which model this is; the rules of the processor take the tokenizer's place."""
        return fingerprints.ModelRecord(
            id=self.id,
            config=fingerprints.config_hash(self.module.config),
            files=None,
            parameters=fingerprints.parameters_hash(self.module),
            tokenizer=hashlib.blake2b(self._rules.encode(), digest_size=16).hexdigest(),
            settings={"dtype": str(self.module.dtype).removeprefix("torch."), "device": self.module.device.type},
        )

    def labels(self, positions: int) -> list[str]:
        """What each position of an item is called: patches by row and column where the model has them."""
        config = self.module.config
        sizes = [getattr(config, name, None) for name in ("image_size", "patch_size")]
        size, patch = (one[0] if isinstance(one, list | tuple) else one for one in sizes)
        side = size // patch if isinstance(size, int) and isinstance(patch, int) and patch else 0
        others = positions - side * side
        if not side or others < 0:
            return [f"position {place}" for place in range(positions)]
        first = ["class", *(f"register {place}" for place in range(1, others))][:others]
        return [*first, *(f"patch {place // side}, {place % side}" for place in range(side * side))]


def load(name: str | Path, *, device: str = "cpu", revision: str | None = None) -> ItemModel:
    """Load a model and its processor, by a folder or a name on the hub.

    Raises: ModelError that says what is missing.
    """
    import transformers

    options = {"revision": revision} if revision else {}
    try:
        module = transformers.AutoModel.from_pretrained(name, **options).to(device)
        processor = transformers.AutoProcessor.from_pretrained(name, **options)
    except Exception as error:  # transformers lets through whatever a damaged file led to
        raise ModelError(f"The model {str(name)!r} or its processor cannot be loaded: {first_lines(error)}") from error
    return wrap(module, processor, id=str(name))


def wrap(module: Any, processor: Any, *, id: str | None = None) -> ItemModel:
    """Use a transformers model that is already loaded.

    Args:
        module: the model; it stays yours and is left as it was found.
        processor: its image processor or feature extractor; or any function that makes the model's inputs, tensors by
            name, of a list of items.
        id: what to call it.
    Raises: ModelError for something else.
    """
    if not isinstance(module, nn.Module) or not hasattr(module, "config"):
        raise ModelError(f"wrap needs a transformers model. Got {type(module).__name__} instead.")
    if not callable(processor) or hasattr(processor, "get_vocab"):
        raise ModelError(f"This needs a processor, not {type(processor).__name__}; for text use itda.wrap.")
    rules = processor.to_json_string() if hasattr(processor, "to_json_string") else getattr(processor, "__name__", "")
    if not isinstance(rules, str):
        rules = json.dumps(rules, sort_keys=True, default=str)
    name = id or getattr(module.config, "_name_or_path", "") or type(module).__name__
    return ItemModel(module, _preparation(processor), name, rules)


def _preparation(processor: Any) -> Callable[[list[Any]], Mapping[str, Tensor]]:
    if hasattr(processor, "image_mean") or hasattr(processor, "image_processor"):
        return lambda items: processor(images=items, return_tensors="pt")
    if hasattr(processor, "sampling_rate"):
        rate = processor.sampling_rate
        return lambda items: processor(items, sampling_rate=rate, return_tensors="pt")
    return processor  # type: ignore[no-any-return]


def capture(
    model: ItemModel,
    items: Mapping[str, Any] | Sequence[str | Path],
    site: str | None = None,
    *,
    batch_size: int = 16,
    sink_ratio: float | None = 10.0,
    progress: bool = True,
) -> Activations:
    """Take activations from a model as it looks at items.

    Args:
        model: from `load` or `wrap`.
        items: what the processor takes, by name; or paths of images.
        site: a place such as `resid_post.6`; the middle layer by default.
        batch_size: items in one pass.
        sink_ratio: rows whose norm is so many times the median are left out and counted (registers of vision
            transformers are such); None keeps them.
        progress: draw a bar on stderr.
    Returns: Activations, a row for each position of each item that is kept.
    Raises: ModelError, SiteError; CorpusError without items, or for one the processor does not take; ActivationError.
    """
    if not isinstance(model, ItemModel):
        raise ModelError(f"This needs an ItemModel from load or wrap. Got {type(model).__name__}.")
    batch_size = whole("batch_size", batch_size)
    if sink_ratio is not None and not sink_ratio > 1:
        raise OptionError(f"sink_ratio must be above 1, or None. Got {sink_ratio!r}.")
    named = dict(items) if isinstance(items, Mapping) else {str(path): path for path in items}
    if not named:
        raise CorpusError("There are no items to look at.")
    place = model.site(site or model.middle_site)
    rows: list[Tensor] = []
    names: list[str] = []
    positions: list[int] = []
    labels: list[str] = []
    listed = list(named.items())
    with progress_bars.bar("capture", len(listed), show=progress) as advance:
        for first in range(0, len(listed), batch_size):
            group = listed[first : first + batch_size]
            values = _looked_at(model, group, place).float().cpu()
            for (name, _), own in zip(group, values, strict=True):
                rows.append(own)
                names += [name] * len(own)
                positions += range(len(own))
                labels += model.labels(len(own))
            advance(len(group))
    matrix = finite(torch.cat(rows), f"The activations at {place.name!r}")
    norms = torch.linalg.vector_norm(matrix, dim=1)
    limit = math.inf if sink_ratio is None else sink_ratio * float(norms.median())
    kept = torch.nonzero(norms <= limit).flatten()
    documents = tuple(item_id(name) for name in named)
    counts = {"rows": len(kept), "sinks": len(norms) - len(kept), "special": 0, "tokens": len(norms)}
    provenance = Provenance(
        model=model.record,
        site=place.name,
        corpus=hashlib.blake2b("".join(documents).encode(), digest_size=16).hexdigest(),
        corpus_name=f"{len(named):,} items",
        capture={
            "window": None, "bos": None, "special_tokens": "keep", "sinks": "keep" if sink_ratio is None else "drop",
            "sink_ratio": sink_ratio, "sink_norm": limit if math.isfinite(limit) else None, "tokens": None,
            "counts": counts, "roles": None,
        },
        heads=place.heads,
    )  # fmt: skip
    sources = Sources.of_items(names, positions, labels).select(kept)
    return Activations(matrix[kept], sources, provenance, documents)


def _looked_at(model: ItemModel, group: Sequence[tuple[str, Any]], place: Site) -> Tensor:
    """The activations (B, T, D) of some items."""
    try:
        given = [_opened(item) for _, item in group]
        made = model.prepare(given)
        inputs = {name: value.to(model.module.device) for name, value in made.items() if isinstance(value, Tensor)}
    except Exception as error:  # what a processor makes of an item that it does not take
        names = ", ".join(name for name, _ in group[:3])
        raise CorpusError(f"The processor does not take {names}: {first_lines(error)}") from error
    return read(model.module, inputs, [place])[place.name]


def _opened(item: Any) -> Any:
    if not isinstance(item, str | Path):
        return item
    from PIL import Image

    with Image.open(item) as image:
        return image.convert("RGB")

"""Which tokens an atom raises and lowers at the output, if nothing after its layer changed it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.data.dictionary import Dictionary
from itda.errors import CorpusError, ModelError, OptionError
from itda.explaining import place_of
from itda.models import tokenizing
from itda.models.hooks import inference
from itda.models.loading import Model
from itda.models.losses import predict
from itda.models.sites import Site
from itda.options import whole

_LOGIT_BYTES = 2**28  # predictions (rows, vocabulary) of one pass
_STEP = 0.1  # of the last layer's median length: small enough to be about a slope, far above rounding
_WINDOWS = 16  # that say what states of the last layer are like


class LogitLens(NamedTuple):
    """Of A atoms, the tokens whose logit rises and falls the most; the strongest first."""

    raised: Tensor
    """int64 (A, n): token ids."""
    raises: Tensor
    """float32 (A, n): by how much, nats, against the mean over all tokens."""
    lowered: Tensor
    lowers: Tensor
    """The same of tokens that become less likely; not above 0."""


def logit_lens(
    dictionary: Dictionary,
    model: Model,
    *,
    count: int = 8,
    site: str | None = None,
    check_model: bool = True,
    progress: bool = True,
) -> LogitLens:
    """Add each atom to the last layer's output and see which logits move: an approximation.

    It leaves out all that later layers make of an atom, so it says the more the later the site. What a model really
    does without an atom is measured by `ablate`.

    Args:
        dictionary: whose atoms are added, a tenth of the median length of the last layer's states of each.
        model: the model it was built on; one that predicts a next token.
        count: tokens on either side.
        site: where, for a dictionary that was built from a bare array.
        check_model: refuse a model with other weights than the dictionary's.
        progress: draw a bar on stderr.
    Raises: ModelError for a model that predicts no token; OptionError for a site that does not write to the residual
        stream; CorpusError for a dictionary without text.
    Source: nostalgebraist 2020; through the model's own last norm and output, by difference.
    """
    place = model.site(place_of(dictionary, model, site, check_model))
    count = whole("count", count)
    if not model.predicts:
        raise ModelError(f"{model.id} predicts no next token, so there are no logits to look at.")
    directions = _directions(dictionary, model, place)
    last = model.site(max((one.name for one in model.sites() if one.name.startswith("resid_post")), key=_layer))
    base = _states(dictionary, model, last)
    length = float(torch.linalg.vector_norm(base, dim=1).median()) * _STEP
    count = min(count, model.vocabulary)
    rows = max(1, min(len(directions), _LOGIT_BYTES // (4 * model.vocabulary)))
    found: list[tuple[Tensor, ...]] = []
    middle = base.mean(0)
    with progress_bars.bar("logit lens", len(directions), show=progress) as advance:
        for part in torch.split(directions, rows):
            change = (_logits(model, last, middle + length * part) - _logits(model, last, middle - length * part)) / 2
            change -= change.mean(1, keepdim=True)
            found.append((*change.topk(count), *(-change).topk(count)))
            advance(len(part))
    raises, raised, lowers, lowered = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return LogitLens(raised, raises, lowered, -lowers)


def _layer(name: str) -> int:
    return int(name.rpartition(".")[2])


def _directions(dictionary: Dictionary, model: Model, place: Site) -> Tensor:
    """Atoms as unit directions of the residual stream, (A, width)."""
    atoms = dictionary.atoms
    if place.side == "input" and not place.name.startswith("resid_pre"):
        through = model.module.get_submodule(place.module)
        with inference(model.module):
            moved = through(torch.cat([atoms.new_zeros(1, atoms.shape[1]), atoms]).to(model.device, model.dtype))
        atoms = (moved[1:] - moved[:1]).float().cpu()
    if atoms.shape[1] != model.width:
        raise OptionError(f"{place.name} does not write to the residual stream, so its atoms have no logit lens.")
    return torch.nn.functional.normalize(atoms, dim=1)


def _states(dictionary: Dictionary, model: Model, last: Site) -> Tensor:
    """What the last layer gives at tokens of the dictionary's own text, (n, width)."""
    texts = [window.text for window in dictionary.sources.windows[:_WINDOWS] if window.text]
    if not texts:
        raise CorpusError("This dictionary has no text with it, so there is none to run the model on.")
    parts = [cut for text in tokenizing.windows(model, texts, length=model.window) for cut in text[:1]]
    inputs = tokenizing.batch(model, parts, length=None)
    states = model.read(inputs, [last])[last.name]
    mask = inputs["attention_mask"].bool()
    mask[:, 0] &= mask.sum(1) == 1  # the first token is often a sink
    return states[mask.to(states.device)].float().cpu()


def _logits(model: Model, last: Site, states: Tensor) -> Tensor:
    """What comes out of the model if these (n, width) are the last layer's output; each is a place of its own."""
    length = min(len(states), model.window)
    batch = math.ceil(len(states) / length)
    ids = torch.ones((batch, length), dtype=torch.int64, device=model.device) % model.vocabulary
    padded = torch.zeros(batch * length, states.shape[1])
    padded[: len(states)] = states
    given = padded.reshape(batch, length, -1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return predict(model, inputs, last, lambda values: given.to(values)).flatten(0, 1)[: len(states)]

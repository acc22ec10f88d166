"""Vectors from what the input owes to: the tokens of a prompt that speak for an answer, and those that speak against.

Integrated gradients say how much each token of a prompt moves log p(target) - log p(opposite). Without the tokens that
speak for the target, and without those against, the model's last state is another one; the difference of the two is
what those tokens bring about.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.errors import CorpusError, ModelError, OptionError
from itda.models import tokenizing
from itda.models.hooks import editing, inference
from itda.models.loading import Model, checked_model
from itda.models.sites import Site
from itda.models.tokenizing import TokenWindow
from itda.options import one_of, several, whole
from itda.steer.directions import mean, pca
from itda.steer.effects import Contrast, check_predicts, checked_contrast, whole_text
from itda.steer.operators import unit
from itda.steer.reading import median_norm
from itda.steer.vectors import SteeringVector

Combine = Literal["pca", "mean"]


class Attribution(NamedTuple):
    """How much each token of a prompt speaks for the target, nats."""

    tokens: tuple[str, ...]
    scores: Tensor
    """float32 (T,): they add up to what all of them together do."""


def attribute(model: Model, example: Contrast, *, steps: int = 32) -> Attribution:
    """Say what each token of a prompt does to log p(target) - log p(opposite).

    Args:
        model: one that predicts a next token.
        example: prompt, target and opposite.
        steps: points on the way from the mean embedding, which is no token in particular, to the prompt's own.
    Returns: scores; their sum is the difference with the prompt less that with mean embeddings, up to the steps.
    Raises: CorpusError; ModelError.
    Source: integrated gradients, Sundararajan, Taly & Yan 2017.
    """
    check_predicts(checked_model(model))
    steps, example = whole("steps", steps), checked_contrast(example)
    parts = [whole_text(model, example.prompt, side) for side in (example.target, example.opposite)]
    first = min(own for _, own in parts)
    scores = torch.zeros(first)
    for sign, (part, own) in zip((1, -1), parts, strict=True):
        scores += sign * _integrated(model, part, own, first, steps)
    text = example.prompt
    window = parts[0][0]
    spans = zip(window.starts[:first].tolist(), window.ends[:first].tolist(), strict=True)
    return Attribution(tuple(text[start:end] for start, end in spans), scores)


def fit(
    model: Model,
    examples: Sequence[tuple[str, str, str]],
    sites: Sequence[str] | None = None,
    *,
    top: int = 3,
    combine: Combine = "pca",
    steps: int = 32,
    progress: bool = True,
) -> SteeringVector:
    """Find the direction that tokens for an answer bring about, and tokens against it do not.

    Of each example, the last state of the prompt is taken without the `top` tokens that speak for the target the most,
    and without those that speak against it the most: (h - h_for) - (h - h_against).

    Args:
        model: the model to be steered.
        examples: (prompt, target, opposite) texts.
        sites: where; the middle layer by default.
        top: tokens on either side; fewer where a prompt has fewer that do.
        combine: `pca`, the first principal direction of these differences, or `mean`.
        steps: of integrated gradients.
        progress: draw a bar on stderr.
    Returns: a vector of length 1 at each site, towards the target.
    Raises: CorpusError; ModelError; OptionError where no token speaks for or against anything.
    Source: GrAInS, Nguyen et al. 2025.
    """
    check_predicts(checked_model(model))
    top = whole("top", top)
    one_of("combine", combine, ("pca", "mean"))
    if not examples:
        raise OptionError("An attribution vector needs at least one (prompt, target, opposite). Got none.")
    given = [checked_contrast(example) for example in examples]
    places = [model.site(name) for name in ([model.middle_site] if sites is None else several("sites", sites))]
    rows: dict[str, list[Tensor]] = {place.name: [] for place in places}
    norms: dict[str, list[Tensor]] = {place.name: [] for place in places}
    with progress_bars.bar("attribute", len(given), show=progress) as advance:
        for example in given:
            scores = attribute(model, example, steps=steps).scores
            part = _prompt(model, example.prompt)
            whole_states = _states(model, part, places, torch.zeros(0, dtype=torch.int64))
            less = [_states(model, part, places, _most(side, top)) for side in (scores, -scores)]
            for place in places:
                rows[place.name].append(less[1][place.name][-1] - less[0][place.name][-1])
                norms[place.name].append(torch.linalg.vector_norm(whole_states[place.name], dim=1))
            advance(1)
    directions = {}
    for name, found in rows.items():
        differences = torch.stack(found)
        nothing = torch.zeros_like(differences)
        directions[name] = unit((pca if combine == "pca" else mean)(differences, nothing))
        if not float(torch.linalg.vector_norm(directions[name])):
            raise OptionError(
                f"No token of these prompts changes anything at {name}. Give longer prompts, or a later site."
            )
    facts: dict[str, Any] = {
        "method": "attribution",
        "top": top,
        "combine": combine,
        "steps": steps,
        "examples": len(given),
    }
    usual = {name: median_norm(torch.cat(found)) for name, found in norms.items()}
    return SteeringVector(directions=directions, norms=usual, model=model.record, facts=facts)


def _integrated(model: Model, part: TokenWindow, own: int, first: int, steps: int) -> Tensor:
    """Of the log-probability of what follows the prompt, to its first tokens, float32 (first,)."""
    inputs = tokenizing.batch(model, [part] * steps, length=None)
    ids = inputs["input_ids"]
    place, middle = _embedding(model)
    # What a tokenizer adds is not the prompt's, and stays
    wanted = torch.from_numpy(~part.special[:first]).to(ids.device)
    # Midpoints: the error falls with the square of the steps
    amounts = (torch.arange(steps, device=ids.device) + 0.5) / steps
    holder: list[Tensor] = []

    def path(values: Tensor) -> Tensor:
        with torch.enable_grad():
            real = values.detach().float()
            moved = real.clone()
            between = middle + amounts[:, None, None] * (real[:, :first] - middle)
            moved[:, :first] = torch.where(wanted[:, None], between, real[:, :first])
            holder[:] = [moved.requires_grad_(), real]
            return moved

    with inference(model.module), torch.enable_grad(), editing(model.module, place, path, inputs):
        logs = torch.log_softmax(model.module(**inputs, use_cache=False).logits.float(), -1)
        right = logs[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0]
        total = right[:, own - 1 :].sum()
        gradient = torch.autograd.grad(total, holder[0])[0]
    change = (holder[1][0, :first] - middle) * wanted[:, None]
    return (gradient[:, :first].mean(0) * change).sum(1).detach().float().cpu()


def _states(model: Model, part: TokenWindow, places: Sequence[Site], masked: Tensor) -> dict[str, Tensor]:
    """Activations (T, D) at some places, with the embeddings of some tokens replaced by the mean one."""
    inputs = tokenizing.batch(model, [part], length=None)
    site, middle = _embedding(model)

    def change(values: Tensor) -> Tensor:
        changed = values.clone()
        changed[:, masked] = middle.to(values)
        return changed

    with editing(model.module, site, change, inputs):
        found = model.read(inputs, list(places))
    return {name: values[0].float().cpu() for name, values in found.items()}


def _most(scores: Tensor, top: int) -> Tensor:
    """The tokens with the largest scores above zero."""
    order = torch.argsort(scores, descending=True, stable=True)[:top]
    return order[scores[order] > 0]


def _embedding(model: Model) -> tuple[Site, Tensor]:
    """Where token embeddings come out, and their mean, (D,)."""
    if model.on_disk:
        raise ModelError(
            "Attribution needs gradients through all layers at once. Load the model without device='disk'."
        )
    table = model.module.get_input_embeddings()
    name = next(name for name, module in model.module.named_modules() if module is table)
    return model.site(name), table.weight.detach().float().mean(0)


def _prompt(model: Model, prompt: str) -> TokenWindow:
    cut = tokenizing.windows(model, [prompt], length=model.positions)[0]
    if len(cut) != 1:
        raise CorpusError(f"The prompt {prompt[:60]!r} is empty, or longer than the model takes.")
    return cut[0]

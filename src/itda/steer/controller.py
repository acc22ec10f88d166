"""A small network that looks at a prompt and says how strongly to steer, and at which layers.

It reads the last token of a prompt at some sites and gives one strength, near 1 for prompts that are to be steered and
near 0 for others, and a weight for each site of a vector. The strength is learned from the two kinds of prompts; the
weights from what steering at each site does to the model's answers. Both have a signal of their own: with a loss on the
strength alone, weights would stay wherever they began.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from itda import logs
from itda import progress as progress_bars
from itda.data import files
from itda.errors import CorpusError, MismatchError, OptionError
from itda.models import tokenizing
from itda.models.fingerprints import ModelRecord
from itda.models.hooks import editing, inference
from itda.models.loading import Model, checked_model
from itda.options import above_zero, seed_number, several, whole
from itda.randomness import seeded
from itda.steer import storing
from itda.steer.applying import TextGate
from itda.steer.effects import Contrast, check_predicts, checked_contrast, whole_text
from itda.steer.reading import checked_texts, read_texts
from itda.steer.vectors import SteeringVector

_KIND = "controller"
_BATCH = 8  # contrasts in a step


class Control(NamedTuple):
    """What a controller makes of n prompts."""

    strengths: Tensor
    """float32 (n,), 0 to 1."""
    weights: Tensor
    """float32 (n, sites), 1 in the mean over sites."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Controller(TextGate):
    """Give it as `when=`: each text is steered by its own strength, each site of the vector by its own weight.

    float32 tensors: `centre` and `spread` (F,) of the features, `inner` (H, F), `inner_bias` (H,), `outer`
    (1 + sites, H) and `outer_bias` (1 + sites,).
    """

    reads: tuple[str, ...]
    """The sites whose last token it looks at."""
    sites: tuple[str, ...]
    """The sites of the vector."""
    tensors: Mapping[str, Tensor]
    model: ModelRecord | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained."""

    def control(self, features: Tensor) -> Control:
        """What it says of features (n, F): states of the last token at all sites it reads, side by side."""
        return _control(self.tensors, features)

    def check(self, model: Model, sites: Sequence[str]) -> None:
        """Refuse another model, and a vector at other sites than it was trained for.

        Raises: MismatchError.
        """
        if self.model is not None:
            self.model.check_same(model.record, "This controller")
        if not set(sites) <= set(self.sites):
            raise MismatchError(
                f"This controller is for {', '.join(self.sites)}, and the model is steered at {', '.join(sites)}."
            )

    def decide(self, states: Mapping[str, Tensor], mask: Tensor, special: Tensor) -> dict[str, Tensor]:
        """Site -> strength times weight of each text, float32 (B,)."""
        places = torch.arange(mask.shape[1], device=mask.device)
        own = mask & ~special
        # The last token of the text, as it was trained; of a prompt without any, the last there is
        last = torch.where(torch.where(own.any(1, keepdim=True), own, mask), places, 0).amax(1)
        rows = torch.arange(len(mask), device=mask.device)
        found = self.control(torch.cat([states[name][rows, last].float().cpu() for name in self.reads], 1))
        return {name: found.strengths * found.weights[:, place] for place, name in enumerate(self.sites)}

    def read(self, model: Model, texts: Sequence[str], *, progress: bool = True) -> Control:
        """What it says of some prompts.

        Raises: CorpusError; MismatchError for another model.
        """
        if self.model is not None:
            self.model.check_same(checked_model(model).record, "This controller")
        return self.control(_features(model, texts, self.reads, progress))

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all.

        Raises: OptionError for another ending; OutputError.
        """
        facts = {"reads": list(self.reads), "sites": list(self.sites), "facts": dict(self.facts)}
        return storing.write(path, _KIND, self.tensors, facts, self.model)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises: FormatError.
        """
        found = storing.read(path, _KIND)
        with files.parsing(Path(path)):
            reads, sites = (storing.names(found.facts[name]) for name in ("reads", "sites"))
            if not bool((found.tensors["spread"] > 0).all()):
                raise ValueError("its spread is not above zero")
            made = cls(
                reads=reads, sites=sites, tensors=found.tensors,
                model=found.model, facts=found.facts["facts"],
            )  # fmt: skip
            weights = made.control(torch.zeros(1, len(made.tensors["centre"]))).weights
            if weights.shape != (1, len(made.sites)):
                raise ValueError("its tensors are not those of its sites")
            return made


def fit(
    model: Model,
    vector: SteeringVector,
    contrasts: Sequence[tuple[str, str, str]],
    others: Sequence[str],
    *,
    reads: Sequence[str] | None = None,
    hidden: int = 32,
    steps: int = 300,
    rate: float = 0.01,
    strength: float = 0.5,
    seed: int = 0,
    progress: bool = True,
) -> Controller:
    """Train a controller for a vector.

    Two losses are added: the cross-entropy of the strength, which is to be 1 for the prompts of the contrasts and 0 for
    the others; and -log sigmoid(log p(target) - log p(opposite)) with the model steered at all sites by their weights,
    which only the weights are trained by.

    Args:
        model, vector: what will be steered, and how.
        contrasts: (prompt, target, opposite) texts: prompts that are to be steered, and what steering is for.
        others: prompts that are to be left alone.
        reads: the sites whose last token it looks at; the vector's own by default.
        hidden: units of the network.
        steps, rate: of training.
        strength: with which the model is steered while the weights are trained, as of `SteeringVector.apply`.
        seed: of the network's beginning and the order of the contrasts.
        progress: draw a bar on stderr.
    Raises: OptionError; CorpusError; ModelError; MismatchError.
    Source: Guiding Giants, Hegazy et al. 2025, where weights had no loss of their own.
    """
    check_predicts(checked_model(model))
    hidden, steps = whole("hidden", hidden), whole("steps", steps)
    rate = above_zero("rate", rate)
    strength = above_zero("strength", strength)
    seed = seed_number(seed)
    if not isinstance(vector, SteeringVector):
        raise OptionError(f"A controller is trained for a steer.SteeringVector. Got {type(vector).__name__}.")
    if vector.model is not None:
        vector.model.check_same(model.record, "This steering vector")
    given = [checked_contrast(one) for one in contrasts]
    if not given or not others:
        raise CorpusError("A controller needs contrasts to steer for, and other prompts to leave alone.")
    checked_texts(others)
    where = [model.site(name).name for name in (vector.sites if reads is None else several("reads", reads))]
    features = _features(model, [*(one.prompt for one in given), *others], where, progress)
    labels = torch.cat([torch.ones(len(given)), torch.zeros(len(others))])
    # Either kind counts as much, however many there are of it
    balance = torch.where(labels > 0, len(labels) / (2 * len(given)), len(labels) / (2 * len(others)))
    tensors, trained = _begin(features, hidden, len(vector.sites), seed)
    effect = _Effect(model, vector, given, strength)
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=1e-2)
    generator = seeded(seed)
    losses = (0.0, 0.0)
    with progress_bars.bar("train controller", steps, show=progress) as advance:
        for step in range(steps):
            logits = _logits(tensors, features)[:, 0]
            told = nn.functional.binary_cross_entropy_with_logits(logits, labels, balance)
            some = torch.randperm(len(given), generator=generator)[:_BATCH]
            meant = effect.loss(some, _control(tensors, features[some]).weights)
            for parameter, gradient in zip(trained, torch.autograd.grad(told + meant, trained), strict=True):
                parameter.grad = gradient
            optimiser.step()
            losses = float(told.detach()), float(meant.detach())
            logs.metrics("controller", {"loss_of_strength": losses[0], "loss_of_weights": losses[1]}, step=step)
            advance(1)
    facts = {
        "contrasts": len(given), "others": len(others), "steps": steps, "rate": rate, "hidden": hidden, "seed": seed,
        "strength": strength, "loss_of_strength": losses[0], "loss_of_weights": losses[1],
    }  # fmt: skip
    return Controller(
        reads=tuple(where), sites=vector.sites, tensors={name: one.detach() for name, one in tensors.items()},
        model=model.record, facts=facts,
    )  # fmt: skip


class _Effect:
    """What steering does to answers, with gradients to the weights of sites."""

    def __init__(self, model: Model, vector: SteeringVector, contrasts: Sequence[Contrast], strength: float) -> None:
        self._model, self._vector = model, vector
        self._parts = [
            [whole_text(model, one.prompt, side) for side in (one.target, one.opposite)] for one in contrasts
        ]
        self._by = {name: strength * vector.norms[name] * vector.directions[name] for name in vector.sites}

    def loss(self, some: Tensor, weights: Tensor) -> Tensor:
        """-log sigmoid(log p(target) - log p(opposite)) of some contrasts, steered by weights (n, sites)."""
        parts = [part for one in some.tolist() for part in self._parts[one]]
        inputs = tokenizing.batch(self._model, [part for part, _ in parts], length=None)
        twice = weights.repeat_interleave(2, 0)

        def added(name: str, own: Tensor) -> Any:
            return lambda values: values + (own[:, None, None] * self._by[name]).to(values)

        with ExitStack() as stack:
            stack.enter_context(inference(self._model.module))
            stack.enter_context(torch.enable_grad())
            for place, name in enumerate(self._vector.sites):
                change = added(name, twice[:, place])
                stack.enter_context(editing(self._model.module, self._model.site(name), change, inputs))
            logs = torch.log_softmax(self._model.module(**inputs, use_cache=False).logits.float(), -1)
        right = logs[:, :-1].gather(2, inputs["input_ids"][:, 1:, None])[:, :, 0]
        sums = torch.stack([right[row, first - 1 : len(part) - 1].sum() for row, (part, first) in enumerate(parts)])
        found: Tensor = nn.functional.softplus(sums[1::2] - sums[::2]).mean().cpu()
        return found


def _features(model: Model, texts: Sequence[str], sites: Sequence[str], progress: bool) -> Tensor:
    """float32 (n, F): states of the last token at all sites, side by side."""
    rows = read_texts(model, texts, sites, read=-1, progress=progress).rows
    return torch.cat([rows[model.site(name).name] for name in sites], 1)


def _begin(features: Tensor, hidden: int, sites: int, seed: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The tensors of a network that gives every text strength 1/2 and every site weight 1, and those to be trained."""
    generator = seeded(seed)
    count = features.shape[1]
    trained = {
        "inner": torch.randn(hidden, count, generator=generator) / count**0.5, "inner_bias": torch.zeros(hidden),
        "outer": torch.zeros(1 + sites, hidden), "outer_bias": torch.zeros(1 + sites),
    }  # fmt: skip
    for tensor in trained.values():
        tensor.requires_grad_()
    spread = features.std(0) if len(features) > 1 else torch.ones(count)
    return {"centre": features.mean(0), "spread": spread.clamp_min(1e-6), **trained}, list(trained.values())


def _logits(tensors: Mapping[str, Tensor], features: Tensor) -> Tensor:
    scaled = (features - tensors["centre"]) / tensors["spread"]
    inner = torch.relu(scaled @ tensors["inner"].T + tensors["inner_bias"])
    found: Tensor = inner @ tensors["outer"].T + tensors["outer_bias"]
    return found


def _control(tensors: Mapping[str, Tensor], features: Tensor) -> Control:
    logits = _logits(tensors, features)
    weights = torch.softmax(logits[:, 1:], 1) * (logits.shape[1] - 1)
    return Control(torch.sigmoid(logits[:, 0]), weights)

"""Affine maps of activations, trained so that one kind of text looks like another to the model: w x + b at each site.

The distance is between distributions, so the texts of the two kinds need no pairs: at every site and dimension, sorted
activations of the mapped source are set against sorted ones of the target (the 1-D Wasserstein distance).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from itda import logs
from itda import progress as progress_bars
from itda.data import files
from itda.errors import CorpusError, OptionError, ShapeError
from itda.models import tokenizing
from itda.models.fingerprints import ModelRecord
from itda.models.hooks import editing, inference
from itda.models.loading import Model, checked_model
from itda.options import above_zero, finite_number, is_number, several, whole
from itda.steer import storing
from itda.steer.applying import Gate, Steering, TextGate, steering
from itda.steer.positions import Tokens, checked_tokens
from itda.steer.reading import checked_texts, read_texts, rows_read, window_of

_KIND = "affine_map"
_TINY = 1e-6


@dataclass(frozen=True, eq=False, kw_only=True)
class AffineMap:
    """One scale and one shift a dimension, at each of some sites."""

    scales: Mapping[str, Tensor]
    """Site -> float32 (D,); 1 leaves a dimension as it is."""
    shifts: Mapping[str, Tensor]
    """Site -> float32 (D,)."""
    model: ModelRecord | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained, and the distance before and after."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Where it is."""
        return tuple(self.scales)

    def apply(
        self, model: Model, strength: float = 1.0, *, tokens: Tokens = "all", when: Gate | TextGate | None = None,
        check_model: bool = True,
    ) -> AbstractContextManager[Steering]:  # fmt: skip
        """Steer a model while the context is open: (1 + s (w - 1)) x + s b.

        Args:
            model: the one it was trained on.
            strength: s; 0 changes nothing, 1 is the map as it was trained.
            tokens, when: as of `SteeringVector.apply`.
            check_model: refuse a model with other weights.
        """
        checked_model(model)
        strength = finite_number("strength", strength)
        if check_model and self.model is not None:
            self.model.check_same(model.record, "This map")
        for name, scale in self.scales.items():
            if model.site(name).width not in (None, len(scale)):
                raise ShapeError(f"This map is {len(scale)} wide at {name}, the model {model.site(name).width}.")
        wanted = checked_tokens(tokens)

        def change_of(name: str) -> Any:
            scale, shift = 1 + strength * (self.scales[name] - 1), strength * self.shifts[name]
            return lambda values: values * scale.to(values.device) + shift.to(values.device)

        told = Steering("affine map", self.sites, wanted, float(strength), "the map as it was trained")
        return steering(
            model, {name: change_of(name) for name in self.sites}, wanted, when, told, check_model=check_model
        )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all.

        Raises: OptionError for another ending; OutputError.
        """
        tensors = {f"scale:{name}": one for name, one in self.scales.items()}
        tensors |= {f"shift:{name}": one for name, one in self.shifts.items()}
        return storing.write(path, _KIND, tensors, {"sites": list(self.sites), "facts": dict(self.facts)}, self.model)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises: FormatError.
        """
        found = storing.read(path, _KIND)
        with files.parsing(Path(path)):
            sites = storing.names(found.facts["sites"])
            scales, shifts = ({name: found.tensors[f"{what}:{name}"] for name in sites} for what in ("scale", "shift"))
            if any(scales[name].ndim != 1 or scales[name].shape != shifts[name].shape for name in sites):
                raise ValueError("its scales and shifts are not of one shape (D,)")
            return cls(scales=scales, shifts=shifts, model=found.model, facts=found.facts["facts"])


def fit(
    model: Model,
    source: Sequence[str],
    target: Sequence[str],
    sites: Sequence[str] | None = None,
    *,
    read: str | int = "last",
    steps: int = 300,
    rate: float = 0.05,
    sparsity: float = 0.0,
    progress: bool = True,
) -> AffineMap:
    """Train maps at several sites together, each seeing what those before it do.

    The loss is the sum over sites of the mean over dimensions of the 1-D Wasserstein distance, in units of the target's
    spread. With `sparsity`, a sparse group lasso on w - 1 and b leaves whole sites and single dimensions alone: after
    each step of gradient descent every group and every entry is drawn towards nothing.

    Args:
        model: the model to be steered.
        source: texts that are to look like the others, such as 32.
        target: the others; they need not be as many.
        sites: where, from the first to the last; every layer's output by default.
        read: the samples of a text: its `last` token, the `mean`, all `tokens`, or a place, as of `SteeringVector.fit`.
        steps: of training.
        rate: of a step, in units of the target's spread; it falls to nothing on the way.
        sparsity: how strongly maps are drawn towards doing nothing; 0 not at all.
        progress: draw a bar on stderr.
    Raises: CorpusError; OptionError.
    Source: LinEAS, Rodriguez et al. 2025; groups and entries as in Simon et al. 2013.
    """
    checked_model(model)
    steps = whole("steps", steps)
    rate = above_zero("rate", rate)
    if not is_number(sparsity) or not 0 <= sparsity < float("inf"):
        raise OptionError(f"sparsity must be a finite number of 0 or more. Got {sparsity!r}.")
    where = (
        [site.name for site in model.sites() if site.name.startswith("resid_post")]
        if sites is None
        else [model.site(name).name for name in several("sites", sites)]
    )
    if not where or len(set(where)) < len(where):
        raise OptionError(f"sites must be different places, at least one. Got {where}.")
    checked_texts(source)
    wanted = read_texts(model, target, where, read=read, progress=False).rows
    if min(len(source), len(target)) < 2:
        raise CorpusError("Distributions need at least two texts of each kind.")
    spread = {name: rows.std(0).clamp_min(_TINY * float(rows.abs().max()) + 1e-12) for name, rows in wanted.items()}
    training = _Training(model, source, where, read)
    scales = {name: torch.ones_like(one, requires_grad=True) for name, one in spread.items()}
    shifts = {name: torch.zeros_like(one, requires_grad=True) for name, one in spread.items()}  # in spreads
    parameters = [*scales.values(), *shifts.values()]
    optimiser = torch.optim.Adam(parameters, lr=rate)
    first = last = 0.0
    with progress_bars.bar("train maps", steps, show=progress) as advance:
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = rate * (1 - step / steps)
            found = training.states(scales, {name: shifts[name] * spread[name] for name in shifts})
            loss = torch.stack(
                [(wasserstein(found[name], wanted[name]) / spread[name]).mean() for name in where]
            ).sum()  # fmt: skip
            last = float(loss.detach())
            first = first if step else last
            logs.metrics("maps", {"loss": last}, step=step)
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()
            if sparsity:
                for name in where:
                    _draw_in(scales[name], shifts[name], optimiser.param_groups[0]["lr"] * sparsity)
            advance(1)
    facts = {
        "method": "affine", "read": read, "steps": steps, "rate": rate, "sparsity": sparsity, "source": len(source),
        "target": len(target), "distance_before": first, "distance_after": last,
    }  # fmt: skip
    return AffineMap(
        scales={name: one.detach() for name, one in scales.items()},
        shifts={name: one.detach() * spread[name] for name, one in shifts.items()}, model=model.record, facts=facts,
    )  # fmt: skip


def wasserstein(first: Tensor, second: Tensor) -> Tensor:
    """The 1-D Wasserstein distance of each dimension of two samples, (n, D) and (m, D) -> (D,).

    Of unequal numbers, quantiles of the smaller are set against those of the larger.
    """
    low, high = (rows.sort(0).values for rows in (first, second))
    if len(low) != len(high):
        count = max(len(low), len(high))
        low, high = (_quantiles(rows, count) for rows in (low, high))
    found: Tensor = (low - high).abs().mean(0)
    return found


def _quantiles(ordered: Tensor, count: int) -> Tensor:
    places = (torch.arange(count) + 0.5) / count * len(ordered) - 0.5
    below = places.floor().clamp(0, len(ordered) - 1).long()
    above = (below + 1).clamp_max(len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], (places - below).clamp(0, 1)[:, None].to(ordered))


class _Training:
    """The source's states with maps on the way, with gradients to the maps."""

    def __init__(self, model: Model, texts: Sequence[str], sites: Sequence[str], read: str | int) -> None:
        self._model, self._sites, self._read = model, [model.site(name) for name in sites], read
        parts = [window_of(model, text) for text in texts]
        self._inputs = tokenizing.batch(model, parts, length=None)
        self._weights = torch.zeros(self._inputs["input_ids"].shape)
        for row, part in enumerate(parts):
            places = rows_read(part, read)
            self._weights[row, places] = 1 / len(places)

    def states(self, scales: Mapping[str, Tensor], shifts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Site -> (n, D), behind the site's own map: a row for each text, or of `tokens` for each token."""
        found: dict[str, Tensor] = {}

        def mapped(name: str) -> Any:
            def change(values: Tensor) -> Tensor:
                changed = values.float() * scales[name].to(values.device) + shifts[name].to(values.device)
                weights = self._weights.to(changed.device)
                every = self._read == "tokens"
                found[name] = (changed[weights > 0] if every else torch.einsum("bt,btd->bd", weights, changed)).cpu()
                return changed.to(values.dtype)

            return change

        with ExitStack() as stack:
            stack.enter_context(inference(self._model.module))
            stack.enter_context(torch.enable_grad())
            for site in self._sites:
                stack.enter_context(editing(self._model.module, site, mapped(site.name), self._inputs))
            self._model.module(**self._inputs, use_cache=False)
        return found


@torch.no_grad()
def _draw_in(scale: Tensor, shift: Tensor, amount: float) -> None:
    """The proximal step of a sparse group lasso: entries first, then the site as a whole."""
    group = torch.cat([scale - 1, shift])
    group = torch.sign(group) * (group.abs() - amount).clamp_min(0)
    size = torch.linalg.vector_norm(group)
    group *= (1 - amount * len(group) ** 0.5 / size.clamp_min(_TINY)).clamp_min(0)
    scale.copy_(group[: len(scale)] + 1)
    shift.copy_(group[len(scale) :])

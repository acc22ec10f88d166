"""Models larger than memory: the weights stay on disk, and those of one layer at a time are in memory.

accelerate reads weights from the model's own files as they are needed. A pass over a corpus for each layer,
from the hidden states that the layer before left, then reads every weight once and needs one layer's memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from itda.errors import ModelError, SiteError
from itda.models.hooks import Inputs, editing, read
from itda.models.sites import Site, find_layers, resolve, text_config


def is_on_disk(module: nn.Module) -> bool:
    """Whether weights of the model are read from disk as they are needed."""
    return any(parameter.is_meta for parameter in module.parameters())


class Layers:
    """A model whose layers are run one at a time, each over as many batches as there are."""

    def __init__(self, module: Any) -> None:
        """Take a model whose weights are on disk.

        Raises: SiteError for a model without a list of layers.
        """
        self._module = module
        self._path, self._layers = find_layers(module)

    def __len__(self) -> int:
        return len(self._layers)

    def of(self, site: Site) -> int:
        """The layer that a site is in.

        Raises: SiteError for a place outside the layers.
        """
        rest = site.module.removeprefix(f"{self._path}.")
        place = rest.partition(".")[0]
        if rest == site.module or not place.isdigit():
            raise SiteError(
                f"{site.name!r} is outside the layers. A model that is run layer by layer can be read inside them: "
                f"{resolve(self._module, 'resid_post.0').name} and so on."
            )
        return int(place)

    @contextmanager
    def resident(self, layer: int) -> Iterator[None]:
        """Hold the weights of a layer in memory, and those that make the first layer's input if it is the first."""
        parts: list[nn.Module] = [self._layers[layer]]
        if layer == 0:
            parts.append(self._module.get_input_embeddings())
        with ExitStack() as held:
            for part in parts:
                held.enter_context(_resident(part))
            yield

    def run(
        self, layer: int, inputs: Inputs, hidden: Tensor | None, sites: Sequence[Site]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The activations at sites of one layer in a batch, and what the layer gives to the next.

        Args:
            layer: which one.
            inputs: what the model is called with.
            hidden: what the layer before gave (B, T, D); None for the first.
            sites: places in this layer.
        Returns: site name -> activations (B, T, D); hidden states (B, T, D).
        """
        out = resolve(self._module, f"resid_post.{layer}")
        wanted = [*sites, *([] if any(site.name == out.name for site in sites) else [out])]
        if hidden is None:
            found = read(self._module, inputs, wanted)
        else:
            entry = resolve(self._module, f"resid_pre.{layer}")
            with self._passed_by(layer, inputs), editing(self._module, entry, lambda _: hidden, inputs):
                found = read(self._module, inputs, wanted)
        return {site.name: found[site.name] for site in sites}, found[out.name]

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states."""
        dtype: torch.dtype = self._module.dtype
        return dtype

    def shape(self, inputs: Inputs) -> tuple[int, ...]:
        """(B, T, D) of the hidden states of a batch."""
        return (*inputs["input_ids"].shape, text_config(self._module.config).hidden_size)

    def check(self, inputs: Inputs, after: Tensor) -> None:
        """Prove on one batch that the second layer, run by itself, does what it does in a whole pass.

        Args:
            inputs: of the batch.
            after: what the second layer gave on it, run by itself.
        Raises: ModelError for an architecture that hands on more from layer to layer than the hidden states.
        """
        out = resolve(self._module, "resid_post.1")
        if not torch.equal(read(self._module, inputs, [out])[out.name], after):
            raise ModelError(
                f"The layers of {type(self._module).__name__} hand on more than their hidden states, so they cannot be "
                "run one at a time. Load it with device='auto' (--device auto)."
            )

    @contextmanager
    def _passed_by(self, layer: int, inputs: Inputs) -> Iterator[None]:
        """The layers before this one hand on what they are given, and no embedding is read."""
        hand_on = self._hand_on  # found out before anything is changed
        embedding = self._module.get_input_embeddings()
        nothing = torch.zeros((), dtype=self.dtype, device=inputs["input_ids"].device).expand(self.shape(inputs))
        before = [(item, item.forward) for item in [embedding, *self._layers[:layer]]]
        embedding.forward = lambda *_, **__: nothing
        for item in self._layers[:layer]:
            item.forward = hand_on
        try:
            yield
        finally:
            for item, forward in before:
                item.forward = forward

    @cached_property
    def _hand_on(self) -> Callable[..., Any]:
        """What a layer does that is passed by; in older versions of transformers a layer returns a tuple."""
        seen: list[Any] = []
        handle = self._layers[0].register_forward_hook(lambda _, __, output: seen.append(output))
        device = next((p.device for p in self._module.parameters() if not p.is_meta), torch.device("cpu"))
        try:
            read(
                self._module,
                {"input_ids": torch.zeros((1, 1), dtype=torch.int64, device=device)},
                [resolve(self._module, "resid_post.0")],
            )
        finally:
            handle.remove()
        in_tuples = isinstance(seen[0], tuple)

        def hand_on(*arguments: Any, **named: Any) -> Any:
            hidden = arguments[0] if arguments else named.get("hidden_states", next(iter(named.values()), None))
            return (hidden,) if in_tuples else hidden

        return hand_on


@contextmanager
def _resident(part: nn.Module) -> Iterator[None]:
    """Hold the weights of a part of the model in memory."""
    hooks: list[tuple[nn.Module, Any]] = [(item, getattr(item, "_hf_hook", None)) for item in part.modules()]
    hooks = [(item, hook) for item, hook in hooks if getattr(hook, "offload", False)]
    for item, hook in hooks:
        hook.pre_forward(item)
        hook.offload = False
    try:
        yield
    finally:
        for item, hook in hooks:
            hook.offload = True
            hook.post_forward(item, torch.empty(0))

"""How large a model is, from its configuration alone: no weight is read."""

import copy
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from itda.errors import ModelError
from itda.models.hooks import read
from itda.models.loading import first_lines, locate, model_class
from itda.models.sites import find_layers, resolve, text_config
from itda.models.tokenizing import CANONICAL_BATCH

_PROBED_BYTES = 1.5e9  # a layer larger than this is not tried out, but reckoned from its parameters
_REPEATS = 7


@dataclass(frozen=True)
class ModelSize:
    """What of a model decides what it costs."""

    name: str
    parameters: int
    layer_parameters: int
    """Of the largest layer."""
    active_parameters: int
    """Of a layer, as far as one token uses them."""
    depth: int
    width: int
    heads_width: int
    """Of all attention heads together."""
    vocabulary: int
    positions: int
    dtype: str
    """Of the weights on disk."""
    config: Any

    @classmethod
    def of(cls, name: str | Path) -> "ModelSize":
        """The size of a model by the name or folder of its configuration.

        Raises: ModelError if that cannot be read.
        """
        import transformers

        source = str(name) if Path(name).is_file() else locate(str(name))[0]
        try:
            config = transformers.AutoConfig.from_pretrained(source)
            with torch.device("meta"):
                module = _bare(config)
        except Exception as error:  # whatever transformers makes of a damaged configuration
            raise ModelError(f"The configuration of {str(name)!r} cannot be used: {first_lines(error)}") from error
        text = text_config(config)
        layers = find_layers(module)[1]
        sizes = [_count(layer) for layer in layers]
        heads = getattr(text, "num_attention_heads", 1)
        return cls(
            name=str(name),
            parameters=_count(module),
            layer_parameters=max(sizes),
            active_parameters=_active(layers[len(layers) // 2], text),
            depth=len(layers),
            width=int(text.hidden_size),
            heads_width=heads * int(getattr(text, "head_dim", None) or text.hidden_size // heads),
            vocabulary=int(text.vocab_size),
            positions=int(getattr(text, "max_position_embeddings", None) or 128),
            dtype=str(getattr(config, "dtype", None) or torch.float32).removeprefix("torch."),
            config=config,
        )

    def flops(self, layers: int, window: int) -> float:
        """Floating-point operations of so many layers for one token in a window of so many."""
        return layers * (2 * self.active_parameters + 4 * window * self.heads_width)

    def pass_seconds(self, layers: int, window: int, threads: int) -> float | None:
        """Seconds of a forward pass through so many layers on this machine.

        Tried out with weights drawn at random, and with fewer layers if all would be too large; None if one is.
        """
        most = min(layers, int(_PROBED_BYTES // (4 * self.layer_parameters)))
        if not most:
            return None
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found = self._seconds_of(most, window)
            if most < layers:
                layer = (found - self._seconds_of(1, window)) / (most - 1) if most > 1 else found
                found += (layers - most) * max(0.0, layer)
        finally:
            torch.set_num_threads(before)
        return found

    def _seconds_of(self, depth: int, window: int) -> float:
        """Of one pass through so many layers."""
        config = copy.deepcopy(self.config)
        text = text_config(config)
        text.num_hidden_layers = depth
        for kinds in ("layer_types", "mlp_layer_types"):  # one entry a layer, checked against their number
            if isinstance(getattr(text, kinds, None), list):
                setattr(text, kinds, getattr(text, kinds)[:depth])
        module = _bare(config).eval()
        site = resolve(module, f"resid_post.{depth - 1}")
        tokens = torch.randint(0, self.vocabulary, (CANONICAL_BATCH, window))
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        seconds = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            read(module, inputs, [site])
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[1:])


def _bare(config: Any) -> Any:
    import transformers

    kind = model_class(config, transformers)
    return kind.from_config(config) if hasattr(kind, "from_config") else kind(config)


def _active(layer: nn.Module, config: Any) -> int:
    """Parameters of a layer that one token uses: of a mixture of experts only as many experts as it is sent to."""
    whole = _count(layer)
    experts = [
        item.get_submodule("experts")
        for item in layer.modules()
        if isinstance(getattr(item, "experts", None), nn.Module)
    ]
    used = getattr(config, "num_experts_per_tok", None)
    count = next(
        (getattr(config, name) for name in ("num_experts", "num_local_experts", "n_routed_experts")
         if getattr(config, name, None)), None,
    )  # fmt: skip
    if not experts or not used or not count:
        return whole
    of_experts = sum(map(_count, experts))
    return round(whole - of_experts * (1 - float(used) / float(count)))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

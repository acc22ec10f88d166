"""How forward passes are run: all sites in one pass over the corpus, or one pass for each layer."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from torch import Tensor

from itda.capturing.hidden_states import HiddenStates
from itda.models.by_layer import Layers
from itda.models.hooks import Inputs
from itda.models.loading import Model
from itda.models.sites import Site


class Stage(Protocol):
    """One pass over the corpus."""

    sites: Sequence[Site]
    """Whose activations it gives."""

    def wants(self, index: int) -> bool:
        """Whether it must see this forward pass though no site needs it."""

    def read(self, index: int, inputs: Inputs, due: Sequence[Site]) -> dict[str, Tensor]:
        """The activations (B, T, D) at the sites that are due, in forward pass number `index`."""


class WholePass:
    """The model in memory, or on other machines: one pass gives all sites."""

    def __init__(self, model: Model, sites: Sequence[Site]) -> None:
        self._model, self.sites = model, sites

    def wants(self, index: int) -> bool:
        """See `Stage.wants`."""
        return False

    def read(self, index: int, inputs: Inputs, due: Sequence[Site]) -> dict[str, Tensor]:
        """See `Stage.read`."""
        return self._model.read(inputs, due)


class LayerPass:
    """One layer of a model on disk, from the hidden states that the layer before left."""

    def __init__(
        self, layers: Layers, layer: int, sites: Sequence[Site], before: Path | None, after: Path | None
    ) -> None:
        self.sites = sites
        self._layers, self._layer = layers, layer
        self._paths = before, after
        self._before: HiddenStates | None = None
        self._after: HiddenStates | None = None

    def wants(self, index: int) -> bool:
        """See `Stage.wants`."""
        return self._paths[1] is not None and (self._after is None or index >= len(self._after))

    def read(self, index: int, inputs: Inputs, due: Sequence[Site]) -> dict[str, Tensor]:
        """See `Stage.read`."""
        before, after = self._paths
        shape, kind = self._layers.shape(inputs), self._layers.dtype
        if before is not None and self._before is None:
            self._before = HiddenStates(before, shape, kind)
        if after is not None and self._after is None:
            self._after = HiddenStates(after, shape, kind)
            if index != len(self._after) and not due:
                return {}
        hidden = self._before.read(index) if self._before else None
        found, left = self._layers.run(self._layer, inputs, hidden, due)
        if self._layer == 1 and index == 0 and hidden is not None:
            self._layers.check(inputs, left)
        if self._after is not None and index == len(self._after):
            self._after.append(left)
        return found

    def close(self) -> None:
        """Close its files."""
        for states in (self._before, self._after):
            if states is not None:
                states.close()


def stages(model: Model, sites: Sequence[Site], scratch: Path | None) -> Iterator[Stage]:
    """The passes over the corpus that give all sites.

    Args:
        model: in memory, or with its weights on disk.
        sites: which activations.
        scratch: where hidden states are kept between the passes of a model on disk; passes that were ended there
            are not made again. It is the caller's to remove. A temporary folder by default.
    """
    if not model.on_disk:
        yield WholePass(model, sites)
        return
    layers = Layers(model.module)
    own = {site.name: layers.of(site) for site in sites}
    with ExitStack() as held:
        folder = scratch or Path(held.enter_context(tempfile.TemporaryDirectory(prefix="itda-hidden-")))
        deepest = max(own.values())
        ended = [layer for layer in range(deepest) if _path(folder, layer).exists()]
        for layer in range(max(ended, default=-1) + 1, deepest + 1):
            before = _path(folder, layer - 1) if layer else None
            after = _path(folder, layer).with_suffix(".part") if layer < deepest else None
            with layers.resident(layer):
                stage = LayerPass(layers, layer, [site for site in sites if own[site.name] == layer], before, after)
                yield stage
                stage.close()
            if after is not None:
                after.rename(_path(folder, layer))
                # The last ones stay until the caller has ended: without them, a stop now would cost all layers
                if before is not None:
                    before.unlink()


def _path(folder: Path, layer: int) -> Path:
    return folder / f"after-layer-{layer:04d}"

"""Corpus + model -> activations of some sites, each with its source."""

from collections.abc import Sequence
from typing import Any

import torch

from itda import progress as progress_bars
from itda.capturing.options import CaptureOptions
from itda.capturing.running import Capture, FewerRowsWarning, decomposed
from itda.capturing.sampling import in_groups, whole_windows
from itda.data.activations import Activations, Block
from itda.data.corpus import Corpus
from itda.data.sources import Sources
from itda.models.loading import Model, checked_model
from itda.options import checked

__all__ = ["Capture", "CaptureOptions", "FewerRowsWarning", "capture", "decomposed", "in_groups", "whole_windows"]


def capture(
    model: Model, corpus: Corpus, site: str | Sequence[str] | None = None, *, progress: bool = True, **options: Any
) -> Any:
    """Take activations from a model as it reads a corpus.

    Args:
        model: from `load_model` or `wrap`.
        corpus: what it reads.
        site: a place such as `resid_post.2` (the middle layer by default), or several, taken in one pass.
        progress: draw a bar on stderr.
        options: fields of `CaptureOptions`: tokens, window, bos, special_tokens, sinks, ...
    Returns: Activations (rows float32 (N, D), sources), or {site: Activations} for several sites.
    Raises: SiteError, CorpusError, ModelError, OptionError; ActivationError for NaN or infinity.
    """
    sites = [site or checked_model(model).middle_site] if site is None or isinstance(site, str) else list(site)
    run = Capture(model, corpus, sites, checked(CaptureOptions, options))
    blocks: dict[str, list[Block]] = {name: [] for name in sites}
    with progress_bars.bar("capture", run.total, show=progress) as advance:
        for block in run:
            for name, part in block.items():
                blocks[name].append(part)
            advance(len(block[sites[0]].rows))
    found = {
        name: Activations(
            torch.cat([part.rows for part in parts]),
            Sources.concatenate(part.sources for part in parts),
            run.provenance(name),
            run.documents,
        )
        for name, parts in blocks.items()
    }
    return found if site is not None and not isinstance(site, str) else found[sites[0]]

"""Models that run on other machines through nnsight: the National Deep Inference Fabric (NDIF), or an own server.

    from itda.adapters import nnsight

    model = nnsight.load("meta-llama/Llama-3.1-405B")
    itda.capture(model, corpus, "resid_post.63", store="store")

Only activations come back: captures, builds, codes and explanations work as with any model; losses do not.
"""

import hashlib
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from itda.errors import MissingExtraError, ModelError, OptionError
from itda.models import fingerprints
from itda.models.hooks import Inputs, per_token
from itda.models.loading import Model, check_kind, fast, first_lines, load_tokenizer
from itda.models.sites import KINDS, Site
from itda.options import whole

_LONGEST_WAIT = 60.0  # seconds between two attempts


def load(
    name: str | Path,
    *,
    remote: bool | str = True,
    tokenizer: Any = None,
    revision: str | None = None,
    retries: int = 5,
) -> "RemoteModel":
    """A model that runs elsewhere; only its configuration and tokenizer are loaded here.

    Args:
        name: on the Hugging Face hub, as the server knows it; or a folder, for `remote=False` and "local".
        remote: True for NDIF (its key as nnsight wants it: `nnsight login`, or the variable NDIF_API_KEY); the address
            of a server; "local" to do here all that would be sent; False to run here.
        tokenizer: its tokenizer, or the name of one.
        revision: branch, tag or commit on the hub.
        retries: how often a pass is tried again that did not come back, after 1, 2, 4 ... seconds.
    Raises: MissingExtraError without nnsight; ModelError.
    """
    try:
        import nnsight
    except ImportError as error:
        raise MissingExtraError("A model on other machines", "remote") from error
    import transformers

    retries = whole("retries", retries, least=0)
    if not isinstance(remote, bool) and remote != "local" and not str(remote).startswith(("http://", "https://")):
        raise OptionError(
            f"remote must be True, False, 'local' or the http address of a server. Got {remote!r} instead."
        )
    if remote is True and ((Path(name) / "config.json").exists() or str(name) == "embedded"):
        raise ModelError(
            f"NDIF knows models by their names on the Hugging Face hub, as USER/NAME. Got {str(name)!r}, which is "
            "here: load it without device='ndif'."
        )
    options = {"revision": revision} if revision else {}
    if tokenizer is None or isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(str(tokenizer or name), transformers, options)
    try:
        envoy = nnsight.TransformersModel(str(name), task="text-generation", tokenizer=tokenizer, **options)
    except Exception as error:  # whatever transformers makes of a name or a damaged configuration
        raise ModelError(f"The configuration of {str(name)!r} cannot be loaded: {first_lines(error)}") from error
    check_kind(envoy._module)
    key = f"{name}@{revision}" if revision else str(name)
    return RemoteModel(envoy, fast(tokenizer), str(name), key, remote=remote, retries=retries)


class RemoteModel(Model):
    """A model whose forward passes nnsight runs; `module` is its skeleton, without weights."""

    remote = True
    on_disk = False
    predicts = False

    def __init__(self, envoy: Any, tokenizer: Any, id: str, key: str, *, remote: bool | str, retries: int) -> None:
        super().__init__(envoy._module, tokenizer, id)
        self._envoy, self._key, self._where, self._retries = envoy, key, remote, retries

    @cached_property
    def record(self) -> fingerprints.ModelRecord:
        """Which model this is: by its name and configuration, since its weights cannot be looked at."""
        return fingerprints.ModelRecord(
            id=self.id,
            config=fingerprints.config_hash(self.module.config),
            files=hashlib.blake2b(f"nnsight:{self._key}".encode(), digest_size=16).hexdigest(),
            parameters=None,
            tokenizer=fingerprints.tokenizer_hash(self.tokenizer),
            settings={"device": "nnsight"},
        )

    def read(self, inputs: Inputs, sites: Sequence[Site]) -> dict[str, Tensor]:
        """See `Model.read`.

        Raises: ModelError if the pass did not come back, however often it was tried.
        """
        import httpx
        from nnsight.intervention.backends.remote import RemoteError
        from websocket import WebSocketException

        for attempt in range(self._retries + 1):
            try:
                return self._read_all(inputs, sites)
            except (RemoteError, httpx.HTTPError, WebSocketException, ConnectionError, TimeoutError) as error:
                if _is_an_answer(error):
                    raise ModelError(f"The server refuses {self.id!r}: {first_lines(error)}") from error
                if attempt == self._retries:
                    raise ModelError(
                        f"{self.id!r} did not answer {attempt + 1} times: {first_lines(error)} A capture into a store "
                        "or a build with a checkpoint keeps what it has: run it again later, and it goes on."
                    ) from error
                time.sleep(min(_LONGEST_WAIT, 2.0**attempt))
        raise AssertionError("there is always a last attempt")

    def _read_all(self, inputs: Inputs, sites: Sequence[Site]) -> dict[str, Tensor]:
        """All named places in one pass; modules by path in one each, since nobody knows when a pass reaches them."""
        named = [site for site in sites if site.name.partition(".")[0] in KINDS]
        found = self._read(inputs, named) if named else {}
        for site in sites:
            if site not in named:
                found |= self._read(inputs, [site])
        return found

    def _read(self, inputs: Inputs, sites: Sequence[Site]) -> dict[str, Tensor]:
        import nnsight
        import torch

        wanted = [(site.module, site.side) for site in sorted(sites, key=_when)]
        with self._envoy.trace(dict(inputs), remote=self._where) as tracer:
            found = nnsight.save({})
            for path, side in wanted:
                module = self._envoy.get(path)
                value = module.input if side == "input" else module.output
                found[path, side] = value if isinstance(value, torch.Tensor) else value[0]
            tracer.stop()
        return {site.name: per_token(found[site.module, site.side], inputs, site).detach().cpu() for site in sites}


def _when(site: Site) -> tuple[int, int]:
    """When in a forward pass a named place is reached: nnsight must be asked in this order."""
    order = ("resid_pre", "attn_heads", "attn_out", "router", "mlp_neurons", "mlp_out", "resid_post")
    kind, _, layer = site.name.partition(".")
    return (int(layer), order.index(kind)) if kind in order else (0, 0)


def _is_an_answer(error: Exception) -> bool:
    """Whether a server has understood and said no, so that to ask again is of no use."""
    cause = error if error.__cause__ is None else error.__cause__
    status = getattr(getattr(cause, "response", cause), "status_code", None)
    if status is not None:
        return 400 <= status < 500 and status not in (408, 425, 429)
    # An error that the run itself led to is reported without a cause
    return type(error).__name__ == "RemoteError" and error.__cause__ is None

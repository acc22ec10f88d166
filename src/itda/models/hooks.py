"""Read or change a place in a model, and leave the model as it was found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from itda.errors import SiteError
from itda.models.sites import Site

Inputs = Mapping[str, Tensor]


_depth: ContextVar[int] = ContextVar("depth", default=0)


class _Enough(Exception):  # noqa: N818
    """Everything that was asked for has been read; the rest of the forward pass is not needed."""


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule's mode and the grad state come back."""
    training = [item for item in module.modules() if item.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for item in training:
            item.training = True


@contextmanager
def aside() -> Iterator[None]:
    """While open, passes of the model are seen and changed only by what is attached meanwhile.

    A pass that is made in the middle of another one, to decide something about it, is nobody else's concern.
    """
    token = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _depth.reset(token)


def depth() -> int:
    """How many `aside` are open. What is attached at one depth is silent at others."""
    return _depth.get()


def read(module: nn.Module, inputs: Inputs, sites: Sequence[Site]) -> dict[str, Tensor]:
    """The activations at some sites in one forward pass, which ends after the deepest of them.

    Args:
        module: the transformers model.
        inputs: what it is called with; `input_ids` (B, T) among it, if it reads tokens.
        sites: the places.
    Returns: site name -> activations (B, T, D), as the model computed them.
    Raises: SiteError for a place that the pass never reached or that has no row per token.
    """
    found: dict[str, Tensor] = {}

    def keep(site: Site, value: Tensor) -> None:
        # A copy: some models add to these very tensors later in the pass.
        found.setdefault(site.name, per_token(value, inputs, site).detach().clone())
        if len(found) == len(sites):
            raise _Enough

    handles = [_attach(module, site, keep) for site in sites]
    try:
        with inference(module), _uncompiled():
            module(**inputs, **_without_cache(module))
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    missing = [site.name for site in sites if site.name not in found]
    if missing:
        raise SiteError(f"The forward pass never reached {', '.join(missing)}. Choose a site that this model uses.")
    return found


@contextmanager
def recording(module: nn.Module, sites: Sequence[Site]) -> Iterator[dict[str, list[Tensor]]]:
    """While open, what every pass has at some sites is kept, pass after pass, as the model computed it."""
    found: dict[str, list[Tensor]] = {site.name: [] for site in sites}

    def keep(site: Site, value: Tensor) -> None:
        found[site.name].append(value.detach().clone())

    handles = [_attach(module, site, keep) for site in sites]
    try:
        with _uncompiled():
            yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def editing(module: nn.Module, site: Site, change: Callable[[Tensor], Tensor], inputs: Inputs) -> Iterator[None]:
    """While open, the activations (B, T, D) at a site are what `change` makes of them."""

    def replace(place: Site, value: Tensor) -> Tensor:
        changed = change(per_token(value, inputs, place))
        return changed.to(value.dtype).reshape(value.shape)

    handle = _attach(module, site, replace)
    try:
        with _uncompiled():
            yield
    finally:
        handle.remove()


@contextmanager
def _uncompiled() -> Iterator[None]:
    """What torch.compile made of a model before has none of the hooks that are attached now, so it is not used."""
    if not hasattr(torch.compiler, "set_stance"):  # before torch 2.6
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _attach(module: nn.Module, site: Site, use: Callable[[Site, Tensor], Tensor | None]) -> Any:
    """Call `use` with the value at the site; what it returns, if anything, takes its place."""
    target, own = module.get_submodule(site.module), depth()
    if site.side == "input":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
            if depth() != own:
                return None
            name = None if args else "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
            value = use(site, args[0] if name is None else kwargs[name])
            if value is None:
                return None
            return ((value, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: value})

        return target.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if depth() != own:
            return None
        # A layer returns a tensor in today's transformers and a tuple in older ones.
        is_tensor = isinstance(output, Tensor)
        value = use(site, output if is_tensor else output[0])
        if value is None or is_tensor:
            return value
        return (value, *output[1:])

    return target.register_forward_hook(after)


def per_token(value: Tensor, inputs: Inputs, site: Site) -> Tensor:
    """The value as (B, T, D); of inputs that are no tokens, T is as many as there are.

    Raises: SiteError if it does not have one row per token.
    """
    if not inputs:
        raise SiteError("A part of the model was called by itself, so its tokens are not known. Call model.module.")
    if "input_ids" not in inputs:
        if value.ndim != 3 or len(value) != len(next(iter(inputs.values()))):
            raise SiteError(f"{site.name!r} does not have rows for each item: its shape is {tuple(value.shape)}.")
        return value
    batch, tokens = inputs["input_ids"].shape
    if value.ndim == 2 and len(value) == batch * tokens:  # some MLPs and routers see one long list of tokens
        return value.view(batch, tokens, -1)
    if value.ndim == 4 and value.shape[:2] == (batch, tokens):  # heads apart, as TransformerLens has them
        return value.flatten(2)
    if value.ndim != 3 or value.shape[:2] != (batch, tokens):
        raise SiteError(
            f"{site.name!r} does not have one row per token: its shape is {tuple(value.shape)} for "
            f"{batch} sequences of {tokens} tokens. Choose another site."
        )
    return value


def _without_cache(module: nn.Module) -> dict[str, bool]:
    return {"use_cache": False} if getattr(module.config, "use_cache", False) else {}

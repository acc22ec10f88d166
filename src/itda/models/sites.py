"""Names of places in a model, resolved by the structure of its layers.

    resid_pre.L    what goes into layer L            resid_post.L   what comes out of it
    attn_out.L     output of the attention           attn_heads.L   the heads, before the output projection
    mlp_out.L      output of the MLP                 mlp_neurons.L  the neurons, before the down projection
    router.L       scores of a mixture of experts    a.module.path  the output of any module

No list of model classes: the layers are the module list that is as long as the configuration says,
attention is the child that is called so, and the projection back to the residual stream is the last
linear map in it that is as wide as the stream. `attn_out` and `mlp_out` are taken before any norm
that follows. The names that TransformerLens has for them (`blocks.8.hook_resid_post`) are taken too.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from itda.errors import SiteError
from itda.models import hook_names

KINDS = ("resid_pre", "resid_post", "attn_out", "attn_heads", "mlp_out", "mlp_neurons", "router")
_NAMED = re.compile(rf"({'|'.join(KINDS)})\.(\d+)")
_NORMS_AFTER = ("post_feedforward_layernorm", "post_mlp_layernorm")
"""Children of a layer that say that what its attention and MLP give is normed before it is added."""


@dataclass(frozen=True)
class Site:
    """One place in a model."""

    name: str
    """`resid_post.8`, or a module path."""
    module: str
    """Path of the module in the model."""
    side: Literal["input", "output"]
    """Which side of that module is read."""
    width: int | None
    """Width of the activation; None where only a forward pass can tell."""
    heads: int | None = None
    """Of `attn_heads`: how many heads' outputs stand side by side in the activation."""


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the language model."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def list_sites(module: nn.Module) -> list[Site]:
    """All named sites of a transformers model, layer by layer."""
    path, layers = find_layers(module)
    width = text_config(module.config).hidden_size
    heads = getattr(text_config(module.config), "num_attention_heads", None)
    return [
        replace(site, heads=heads) if _are_heads(site, heads) else site
        for index in range(len(layers))
        for site in _layer_sites(path, layers[index], index, width)
    ]


def _are_heads(site: Site, heads: Any) -> bool:
    """Whether an activation can be cut into the outputs of so many heads."""
    is_place = site.name.startswith("attn_heads.") and site.width is not None
    return is_place and isinstance(heads, int) and heads > 0 and site.width % heads == 0  # type: ignore[operator]


def resolve(module: nn.Module, name: str) -> Site:
    """The site of that name.

    Raises: SiteError that names the nearest sites there are.
    """
    if not isinstance(name, str):
        raise SiteError(
            f"A site is named by a text, as resid_post.3. Got {type(name).__name__}. List all with: itda sites MODEL"
        )
    name = _own_name(module, name)
    modules = dict(module.named_modules())
    if name in modules and name:
        return Site(name, name, "output", _output_width(modules[name]))
    try:
        known = {site.name: site for site in list_sites(module)}
    except SiteError:
        known = {}
    if isinstance(name, str) and name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), [*known, *filter(None, modules)], n=4, cutoff=0.5)
    if match := _NAMED.fullmatch(str(name)):
        depths = [int(site.rpartition(".")[2]) for site in known if site.startswith(f"{match[1]}.")]
        what = f"layers {min(depths)} to {max(depths)}" if depths else "no layer of this model"
        raise SiteError(f"There is no site {name!r}: {match[1]} exists at {what}. List all with: itda sites MODEL")
    hint = f"Did you mean {', '.join(near)}?" if near else "A site is named like resid_post.3."
    raise SiteError(f"There is no site {name!r} in this model. {hint} List all with: itda sites MODEL")


def _own_name(module: nn.Module, name: str) -> str:
    """A name, or what we call the place that TransformerLens has under it."""
    own = hook_names.to_site(name) if isinstance(name, str) else name
    if own != name and norms_follow(module) and hook_names.to_hook(own, norms_follow=True) is None:
        raise SiteError(
            f"{name!r} is taken after the norm that follows in this model; {own!r} is taken before it. Use {own!r}, "
            "or the norm's module path."
        )
    return own


def norms_follow(module: nn.Module) -> bool:
    """Whether what attention and MLP give goes through a norm before it is added to the residual stream.

    Raises: SiteError if the model has no list of layers.
    """
    return any(hasattr(find_layers(module)[1][0], name) for name in _NORMS_AFTER)


def read_before_norms(module: nn.Module, site: str) -> bool:
    """Whether a site is what attention or MLP give before such a norm, for which TransformerLens has no hook."""
    return site.partition(".")[0] in hook_names.BEFORE_NORMS and norms_follow(module)


def find_layers(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and list of the language model's layers.

    Raises: SiteError if the model has no such list; its modules can still be named by path.
    """
    config = text_config(module.config)
    names = ("num_hidden_layers", "encoder_layers", "decoder_layers")
    depths = {int(getattr(config, name)) for name in names if getattr(config, name, None) is not None}
    lists = [(path, item) for path, item in module.named_modules() if isinstance(item, nn.ModuleList) and len(item)]
    if depths:
        lists = [(path, item) for path, item in lists if len(item) in depths]
    if not lists:
        raise SiteError(
            f"{type(module).__name__} has no list of {' or '.join(map(str, sorted(depths)))} layers, so it has no "
            "named sites. Name a module by its path."
        )
    # Other lists of the same length exist (norms, experts, a vision tower): the layers hold the most weights.
    return max(lists, key=lambda entry: (_has_attention(entry[1]), sum(p.numel() for p in entry[1].parameters())))


def _has_attention(layers: nn.ModuleList) -> bool:
    return any(_attention(layer) is not None for layer in layers)


def _layer_sites(path: str, layer: nn.Module, index: int, width: int) -> Iterator[Site]:
    base = f"{path}.{index}"
    yield Site(f"resid_pre.{index}", base, "input", width)
    attention = _attention(layer)
    if attention is not None:
        found = _last_projection(layer, width, inside=attention)
        if found:
            yield Site(f"attn_heads.{index}", f"{base}.{found[0]}", "input", found[1])
            yield Site(f"attn_out.{index}", f"{base}.{found[0]}", "output", width)
    experts = _mixture_of_experts(layer)
    if experts is not None:
        router = next((name for name in ("gate", "router") if hasattr(layer.get_submodule(experts), name)), None)
        if router:
            weight = getattr(layer.get_submodule(f"{experts}.{router}"), "weight", None)
            yield Site(
                f"router.{index}", f"{base}.{experts}.{router}", "output", None if weight is None else len(weight)
            )
        yield Site(f"mlp_out.{index}", f"{base}.{experts}", "output", width)
    elif found := _last_projection(layer, width, outside=attention):
        yield Site(f"mlp_neurons.{index}", f"{base}.{found[0]}", "input", found[1])
        yield Site(f"mlp_out.{index}", f"{base}.{found[0]}", "output", width)
    yield Site(f"resid_post.{index}", base, "output", width)


def _attention(layer: nn.Module) -> str | None:
    """Name of the child that is the self-attention."""
    for name, child in layer.named_children():
        called = f"{name} {type(child).__name__}".lower()
        is_attention = ("attention" in called or "attn" in called) and "cross" not in called
        if is_attention and any(_widths(item) for item in child.modules()):
            return name
    return None


def _mixture_of_experts(layer: nn.Module) -> str | None:
    """Path of the module in a layer that holds experts and their router."""
    return next((name for name, item in layer.named_modules() if name and hasattr(item, "experts")), None)


def _last_projection(
    layer: nn.Module, width: int, *, inside: str | None = None, outside: str | None = None
) -> tuple[str, int] | None:
    """Path and input width of the last linear map of a layer that leads back to the residual stream."""
    found, within = None, "."
    for name, item in layer.named_modules():
        parent = name.partition(".")[0]
        widths = None if name.startswith(within) else _widths(item)
        if widths:  # what is inside of it, as of an adapter (PEFT), is a part of this map
            within = f"{name}."
        wanted = parent == inside if inside else parent != outside
        if wanted and widths and widths[1] == width and "cross" not in name.lower():
            found = (name, widths[0])
    return found


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """Input and output width of a linear map, plain, quantised or GPT-2's transposed one."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    if hasattr(module, "nx") and hasattr(module, "nf"):
        return int(module.nx), int(module.nf)  # type: ignore[arg-type]
    return None


def _output_width(module: nn.Module) -> int | None:
    if widths := _widths(module):
        return widths[1]
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    weight = getattr(module, "weight", None)
    return len(weight) if weight is not None and weight.ndim == 1 else None  # a norm

"""Names of sites as TransformerLens has them: `blocks.8.hook_resid_post` is `resid_post.8`.

Its `hook_attn_out` and `hook_mlp_out` are taken after a norm that follows, ours before it: in a model with such norms
(Gemma 2 and 3, OLMo 2) they are not the same place, and no name is given or taken there.
"""

import re

_HOOKS = {
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "attn_heads": "attn.hook_z",
    "mlp_out": "hook_mlp_out",
    "mlp_neurons": "mlp.hook_post",
}
BEFORE_NORMS = ("attn_out", "mlp_out")
_HOOK = re.compile(r"blocks\.(\d+)\.([a-z_.]+)")


def to_site(name: str) -> str:
    """The site that a hook is; any other name stays what it is."""
    match = _HOOK.fullmatch(name)
    kinds = [kind for kind, hook in _HOOKS.items() if match and hook == match[2]]
    return f"{kinds[0]}.{match[1]}" if match and kinds else name


def to_hook(site: str, *, norms_follow: bool = False) -> str | None:
    """The hook that a site is, or None if TransformerLens has none.

    Args:
        site: as `resid_post.8`.
        norms_follow: whether the model has norms after its attention and MLP.
    """
    kind, _, layer = site.rpartition(".")
    if kind not in _HOOKS or (norms_follow and kind in BEFORE_NORMS):
        return None
    return f"blocks.{layer}.{_HOOKS[kind]}"

"""Atoms of attention heads: which heads they are in."""

import torch
from torch import Tensor

from itda.data.provenance import Provenance
from itda.errors import OptionError

_SHOWN = 2


def shares_of(atoms: Tensor, provenance: Provenance | None) -> Tensor:
    """How much of each unit atom (A, D) is in the output of each head: shares of its squared length, (A, heads).

    Raises: OptionError at another place than `attn_heads`.
    Source: Kissane et al. 2024, whose attribution by decoder weights this is.
    """
    heads = provenance.heads if provenance else None
    if heads is None or atoms.shape[1] % heads:
        raise OptionError("Only atoms built at attn_heads.L belong to heads, of a model that says how many it has.")
    return atoms.reshape(len(atoms), heads, -1).square().sum(2)


def name_heads(atom: Tensor, provenance: Provenance | None) -> str:
    """At `attn_heads`, the heads with most of a unit atom (D,), as in `head 3 62%, 0 21%: `; elsewhere nothing."""
    if provenance is None or not provenance.heads:
        return ""
    shares = shares_of(atom[None], provenance)[0]
    best = torch.argsort(shares, descending=True, stable=True)[:_SHOWN].tolist()
    return f"head {', '.join(f'{head} {shares[head]:.0%}' for head in best)}: "

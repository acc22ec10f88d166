"""What another model would have, from codes made in one: the same named atoms, as that model has them."""

from typing import Any

import torch
from torch import Tensor

from itda.compare.transplants import Transplant
from itda.data.dictionary import Dictionary
from itda.data.token_means import TokenMeans
from itda.errors import MismatchError, OptionError, ShapeError
from itda.options import above_zero, flag
from itda.pursuit import Codes
from itda.shapes import as_matrix

RIDGE = 0.3
_FLOATS = 2**24  # of atoms, gathered for rows together


def translate(
    codes: Codes,
    there: Transplant,
    *,
    rows: Any = None,
    token_ids: Any = None,
    refit: bool | None = None,
    ridge: float = RIDGE,
) -> Tensor:
    """The activations that another model would have where one model has these codes.

    x ~ m + sum_k w_k (x_k - m) is a code in activations x_k of the first model; the other one has y_k at the same
    places, so y ~ m' + sum_k w_k (y_k - m'). Refitted, the weights are those with which the first model's atoms in the
    code give x best when their size is held down: weights that only just cancel mean nothing elsewhere. With token ids,
    all activations are taken less the mean of their token: what the token alone says is known in both models, and only
    the rest is translated.

    Args:
        codes: of the dictionary that was transplanted, by its atom numbers.
        there: from `transplant`. Atoms that it dropped add nothing.
        rows: what the codes are of, (N, D), or Activations; by default what the codes give back.
        token_ids: int (N,) of the rows' tokens; a pair for two tokenizers, the second those of the other model's tokens
            at the same places.
        refit: fit the weights anew, or take the coefficients; by default anew where token ids are given.
        ridge: how much size is held down, as a share of an atom's mean energy.
    Returns: float32 (N, D of the other model).
    Raises: OptionError; ShapeError for another number of rows or ids; MismatchError for codes with atoms that the
        dictionary which was transplanted does not have.
    Source: weights of locally linear reconstructions, Roweis & Saul 2000; sparse codes on paired anchors, Norelli et
        al. 2023.
    """
    if not isinstance(codes, Codes) or not isinstance(there, Transplant):
        raise OptionError(
            f"translate takes Codes and what transplant returns. Got {type(codes).__name__} and {type(there).__name__}."
        )
    fit = token_ids is not None if refit is None else refit
    flag("refit", fit)
    ridge = above_zero("ridge", ridge)
    original = there.original
    if len(codes) and int(codes.atoms.max()) >= len(original):
        raise MismatchError(
            f"These codes have atom {int(codes.atoms.max()):,}, but the dictionary that was transplanted has "
            f"{len(original):,}. Encode with that one."
        )
    ids = None if token_ids is None else _pair(token_ids, len(codes))
    if rows is None:
        given = original.decode(codes)
    else:
        given = as_matrix(getattr(rows, "rows", rows), "rows", "N, D", width=original.width)
    if len(given) != len(codes):
        raise ShapeError(f"rows must be those of the {len(codes):,} codes. Got {len(given):,}.")
    lookup = torch.full((len(original) + 1,), -1)  # the last is for unused places, atom -1
    lookup[there.kept] = torch.arange(len(there))
    first, second = _Side(original, ids and ids[0]), _Side(there, ids and ids[1])
    own, others = first.atoms[there.kept], second.atoms
    found = []
    width = max(1, codes.atoms.shape[1] * max(own.shape[1], others.shape[1]))
    for block in torch.split(torch.arange(len(codes)), max(1, _FLOATS // width)):
        places = lookup[codes.atoms[block].long()]
        used = places >= 0
        chosen = own[places.clamp_min(0)] * used[..., None]
        if fit:
            weights = _refitted(chosen, given[block] - first.expected(block), ridge)
        else:
            weights = codes.coefficients[block] / original.norms[codes.atoms[block].clamp_min(0).long()]
        moved = torch.einsum("nk,nkd->nd", weights * used, others[places.clamp_min(0)])
        found.append(second.expected(block) + moved)
    return torch.cat([torch.empty((0, there.width)), *found])


class _Side:
    """One model's atoms and what is known of its rows without any code: its mean, or that of each token."""

    def __init__(self, dictionary: Dictionary, token_ids: Tensor | None) -> None:
        self._mean, self._ids = dictionary.mean, token_ids
        self.atoms = dictionary.atoms * dictionary.norms[:, None]
        """float32 (A, D): less what is known of them."""
        if token_ids is not None:
            self._means = _means(dictionary)
            self.atoms = self.atoms + dictionary.mean - _known(dictionary, self._means)

    def expected(self, block: Tensor) -> Tensor:
        """Of some rows, by index: float32 (n, D) or (D,)."""
        return self._mean if self._ids is None else self._means.of(self._ids[block])


def _known(dictionary: Dictionary, means: TokenMeans) -> Tensor:
    """Of the token of each atom, float32 (A, D); of mixtures, mixed alike."""
    mixed = dictionary.mixtures
    if mixed is None:
        return means.of(dictionary.sources.token_id)
    parts = means.of(mixed.sources.token_id).reshape(*mixed.weights.shape, -1)
    return torch.einsum("ap,apd->ad", mixed.weights, parts)


def _means(dictionary: Dictionary) -> TokenMeans:
    if dictionary.token_means is None:
        raise OptionError("This dictionary keeps no means of tokens: leave token_ids out.")
    return dictionary.token_means


def _refitted(atoms: Tensor, rows: Tensor, ridge: float) -> Tensor:
    """Weights (n, K) with which atoms (n, K, D) give rows (n, D), held down; 0 for atoms that are zero."""
    products = atoms @ atoms.mT
    energy = products.diagonal(dim1=1, dim2=2)
    usual = energy.sum(1) / (energy > 0).sum(1).clamp_min(1)
    held = ridge * usual.clamp_min(torch.finfo(torch.float32).tiny)
    agreement = (atoms @ rows[..., None])[..., 0]
    found: Tensor = torch.linalg.solve(products + torch.diag_embed(held[:, None].expand_as(energy)), agreement)
    return found


def _pair(token_ids: Any, count: int) -> tuple[Tensor, Tensor]:
    both = token_ids if isinstance(token_ids, tuple) else (token_ids, token_ids)
    ids = [torch.as_tensor(one) for one in both]
    if len(ids) != 2 or any(one.shape != (count,) or one.is_floating_point() for one in ids):
        shown = ", ".join(str(tuple(one.shape)) for one in ids)
        raise ShapeError(f"token_ids must be {count:,} whole numbers, one a row, or a pair of these. Got {shown}.")
    return ids[0].long(), ids[1].long()

"""Some of many rows, as if drawn by chance, and the same ones each time."""

import torch
from torch import Tensor

# 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB, as numbers with a sign
_STEP, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


def lots(places: Tensor) -> Tensor:
    """A number for each of some rows by theirs, int64 (n,), as if drawn by chance, no two the same.

    Source: the finaliser of SplitMix64 (Steele, Lea & Flood 2014).
    """
    mixed = (places + 1) * _STEP
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    return mixed ^ _shifted(mixed, 31)


def evenly(count: int, wanted: int) -> Tensor:
    """So many of `count` rows, by index, in order: as a reservoir keeps them, so that no rhythm of theirs is met."""
    if count <= wanted:
        return torch.arange(count)
    return torch.argsort(lots(torch.arange(count)), stable=True)[:wanted].sort().values


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Shifted right as if there were no sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)

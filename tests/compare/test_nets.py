"""The nets behind overlap: dictionaries of one step, what chance keeps, and how many atoms."""

import numpy as np
import pytest
import torch
from torch import Tensor

import itda
from itda import compare
from itda.compare.nets import PRESET, Nets, as_many, members_of, overlap
from itda.compare.representations import Representation
from itda.errors import ShapeError


def rows_of(count: int = 1500, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def by_hand(rows: Tensor, gap: float) -> list[int]:
    """One row after the other."""
    units, atoms = torch.nn.functional.normalize(rows, dim=1), list[int]()
    for place, unit in enumerate(units):
        if unit.any() and (not atoms or (units[atoms] @ unit).max() < 1 - gap):
            atoms.append(place)
    return atoms


@pytest.mark.parametrize("gap", [0.05, 0.2, 0.6])
def test_a_net_takes_rows_one_by_one_that_are_unlike_all_before(gap: float) -> None:
    rows = rows_of()
    rows[[3, 1100]] = 0
    found = members_of(rows, (0.01, gap, 0.9))
    assert found[1].nonzero().flatten().tolist() == by_hand(rows, gap)
    assert found.sum(1).diff().max() < 0, "the wider the gap, the fewer atoms"


def test_a_net_is_what_greedy_builds_in_one_step() -> None:
    rows, gap = rows_of(600), 0.2
    built = itda.build_from_activations(
        rows, method="greedy", max_unexplained=1 - (1 - gap) ** 2, block=1, center=False,
        coding=itda.Coding(steps=1, nonnegative=True), progress=False,
    )  # fmt: skip
    net = members_of(rows, (gap,))[0]
    wanted = torch.nn.functional.normalize(rows[net], dim=1)
    assert len(built) == int(net.sum())
    assert torch.allclose((built.atoms @ wanted.T).amax(0), torch.ones(len(wanted)), atol=1e-5)


def test_chance_draws_rows_of_the_same_kind() -> None:
    a, b = Representation.of(rows_of(seed=1), whiten=True), Representation.of(rows_of(seed=2), whiten=True)
    kinds = torch.arange(1500) % 7
    first, second = (Nets(one, kinds, atoms=300) for one in (a, b))
    both = first.members.bool(), second.members.bool()
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(300):
        sets = []
        for one in both:
            taken = torch.zeros(1500, dtype=torch.bool)
            for kind in range(7):
                there = (kinds == kind).nonzero().flatten().numpy()
                taken[generator.choice(there, int(one[0, there].sum()), replace=False)] = True
            sets.append(taken)
        drawn.append(float((sets[0] & sets[1]).sum() / (sets[0] | sets[1]).sum()))
    found = float((both[0] & both[1]).sum() / (both[0] | both[1]).sum())
    chance = float(np.mean(drawn))
    assert overlap(first, second) == pytest.approx((found - chance) / (1 - chance), abs=0.01)
    assert overlap(first, first) == 1
    assert 0 < overlap(first, second) < 0.25, "unrelated, but both begin with the first rows"


def test_as_many_atoms_as_were_asked_for() -> None:
    rows = rows_of(3000, 16)
    for atoms in (20, 400, 2500):
        assert int(as_many(rows, atoms).sum()) == pytest.approx(atoms, rel=0.06)
    with pytest.raises(ShapeError, match="unlike each other"):
        as_many(rows, 5000)


def test_rows_that_are_all_unlike_say_so() -> None:
    with pytest.raises(ShapeError, match="keeps every row"):
        compare.similarity(torch.eye(40)[:, :39] * 1.0, rows_of(40, 39), "overlap")


def test_the_preset_is_pinned() -> None:
    assert PRESET.rows == 20_000
    assert len(PRESET.gaps) == 21
    assert (PRESET.gaps[0], PRESET.gaps[4], PRESET.gaps[-1]) == pytest.approx((0.02, 0.04, 0.64))
    rows = rows_of(2000, 8)
    rows[:, :3] *= 3
    related = torch.tanh(rows @ rows_of(8, 8, seed=5)) + 0.1 * rows_of(2000, 8, seed=6)
    # A number that must not move from one version to the next
    assert compare.similarity(rows, related, "overlap") == pytest.approx(0.062408866, abs=1e-6)

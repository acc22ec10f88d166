"""The nets behind overlap: dictionaries of one step, what chance keeps, and how many atoms."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import itda
from itda import compare
from itda.compare.nets import PRESET, Nets, as_many, beyond_chance, members_of, overlap, stretches
from itda.compare.representations import Representation
from itda.errors import ShapeError

GAP = 16
"""The place of 0.32 among the preset's, at which some hundred of these rows are atoms."""


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


def test_chance_keeps_kinds_and_how_many_rows_come_before() -> None:
    kinds = torch.arange(1500) % 7
    net = Nets(Representation.of(rows_of(seed=1), whiten=True), kinds)
    octaves = torch.log2(torch.arange(1500) + 1.0).long()
    chances = net.chances[GAP]
    assert chances.min() >= 0
    assert chances.max() <= 1
    for groups, tolerance in ((kinds, 1e-3), (octaves, 0.05)):
        wanted = torch.zeros(int(groups.max()) + 1).index_add_(0, groups, net.members[GAP])
        found = torch.zeros(len(wanted), dtype=torch.float64).index_add_(0, groups, chances)
        assert torch.allclose(found, wanted.double(), atol=tolerance, rtol=tolerance)
    same = chances[(kinds == 3) & (octaves == 8)]
    assert torch.equal(same, same[:1].expand_as(same))


def test_by_chance_is_what_such_draws_share() -> None:
    kinds = torch.arange(1500) % 7
    nets = [Nets(Representation.of(rows_of(seed=seed), whiten=True), kinds) for seed in (1, 2)]
    expected = beyond_chance((nets[0].members, nets[1].members), (nets[0].chances, nets[1].chances))[1][GAP]
    drawn = []
    for _ in range(300):
        one, other = (torch.rand(1500) < net.chances[GAP] for net in nets)
        drawn.append(float((one & other).sum() / (one | other).sum()))
    assert float(expected) == pytest.approx(np.mean(drawn), abs=0.005)
    assert overlap(nets[0], nets[0]) == 1


def clusters(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(60, 20, generator=generator)
    return centres[torch.randint(60, (3000,), generator=generator)] + 0.3 * torch.randn(3000, 20, generator=generator)


@pytest.mark.parametrize("rows", [rows_of, clusters])
def test_unrelated_rows_share_what_chance_gives(rows: Callable[..., Tensor]) -> None:
    assert compare.similarity(rows(seed=1), rows(seed=2), "overlap") == pytest.approx(0, abs=0.06)


def test_stretches_hold_every_row_once_at_each_spacing() -> None:
    found = stretches(1000, 100)
    assert max(map(len, found)) == 100
    by_spacing: dict[int, list[Tensor]] = {}
    for one in found:
        by_spacing.setdefault(int(one[1] - one[0]) if len(one) > 1 else 1, []).append(one)
    assert sorted(by_spacing) == [1, 2, 4, 8]
    for several in by_spacing.values():
        assert torch.equal(torch.cat(several).sort().values, torch.arange(1000))
    assert torch.equal(torch.cat(stretches(30, 100)), torch.arange(30))


def test_no_dictionary_has_more_atoms_than_were_asked_for() -> None:
    nets = [Nets(Representation.of(rows_of(seed=seed), whiten=True), atoms=50) for seed in (1, 2)]
    starts = torch.cat([torch.full((len(one),), number) for number, one in enumerate(stretches(1500, 50))])
    counts = torch.zeros(len(PRESET.gaps), int(starts.max()) + 1).index_add_(1, starts, nets[0].members)
    assert counts.max() <= 50
    assert overlap(nets[0], nets[0]) == 1
    assert overlap(*nets) == pytest.approx(0, abs=0.06)


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
    related = torch.tanh(0.1 * rows @ rows_of(8, 8, seed=5)) + 0.01 * rows_of(2000, 8, seed=6)
    # A number that must not move from one version to the next
    assert compare.similarity(rows, related, "overlap") == pytest.approx(0.155329149, abs=1e-6)

"""As many atoms in the mean as were asked for, more where a row needs them."""

import pytest
import torch

from itda import Coding, build_from_activations, extend_from_activations, merge
from itda.building.calibrating import calibrated
from itda.errors import OptionError
from itda.pursuit import default_coding, prepare, pursue
from support.signals import coherent


@pytest.fixture(scope="module")
def rows():
    return coherent(6000, 32, 1)[0]


def made(rows, **options):
    return build_from_activations(rows, progress=False, **options)


@pytest.mark.parametrize("steps", [2, 4, 9])
@pytest.mark.parametrize("method", ["greedy", "budget", "random"])
def test_codes_have_the_steps_in_the_mean_and_at_most_twice_as_many(rows, steps, method):
    dictionary = made(rows, atoms=96, steps=steps, method=method)
    found = dictionary.encode(rows).l0
    assert found.double().mean() == pytest.approx(steps, rel=0.02)
    assert found.max() == 2 * steps == dictionary.coding.places
    assert found.min() < steps


@pytest.mark.parametrize("method", ["mp", "omp"])
def test_less_is_unexplained_than_with_as_many_for_every_row(rows, method):
    dictionary = made(rows, atoms=96, coding=Coding(steps=4, most=8, method=method))
    varying, exact = dictionary.encode(rows), dictionary.encode(rows, steps=4)
    assert exact.atoms.shape == (len(rows), 4)
    missed = [float((dictionary.decode(codes) - rows).square().sum()) for codes in (varying, exact)]
    assert missed[0] < 0.95 * missed[1]


def test_steps_where_it_is_used_are_exactly_so_many(rows):
    dictionary = made(rows, atoms=96, steps=4)
    assert str(dictionary.coding).startswith("4 steps in the mean, at most 8, of orthogonal matching pursuit")
    exact = dictionary.coding.with_options(steps=6)
    assert exact == Coding(steps=6, method="omp", nonnegative=True)
    assert torch.equal(dictionary.encode(rows, steps=6).atoms, dictionary.encode(rows, coding=exact).atoms)


def test_a_threshold_of_ones_own_and_exactly_as_many_stay(rows):
    for coding in (Coding(steps=4, method="omp"), Coding(steps=4, stop_at=0.2), Coding(steps=4, most=6, stop_at=0.2)):
        assert made(rows, atoms=96, coding=coding).coding == coding
    assert made(rows, atoms=96, steps=4, method="paper", max_cosine_gap=0.05).coding == Coding(steps=4)
    assert default_coding(1).most is None


def test_rows_that_need_no_more_have_no_more():
    rows = torch.eye(16).repeat(40, 1)
    found = calibrated(default_coding(4), rows, prepare(torch.eye(16)))
    assert pursue(rows, torch.eye(16), found).l0.max() == 1


def test_more_than_there_are_atoms_is_all_of_them(rows):
    dictionary = made(rows, atoms=5, steps=4)
    assert dictionary.encode(rows).l0.max() <= 5


def test_a_merge_finds_it_anew_and_an_extension_takes_the_stricter(rows):
    parts = [made(part, atoms=64, steps=4) for part in rows.split(3000)]
    merged = merge(parts, atoms=96, rows=rows)
    assert merged.encode(rows).l0.double().mean() == pytest.approx(4, rel=0.02)
    assert merge(parts).coding.stop_at == min(part.coding.stop_at for part in parts)
    wider = extend_from_activations(parts[0], rows[3000:], atoms=64, progress=False)
    assert wider.coding.stop_at <= parts[0].coding.stop_at
    assert wider.encode(rows).unexplained.double().mean() < parts[0].encode(rows).unexplained.double().mean()


def test_fewer_at_most_than_in_the_mean_is_refused():
    with pytest.raises(OptionError, match="most=3 is less than the steps=4"):
        Coding(steps=4, most=3)
    with pytest.raises(OptionError, match="most must be a whole number"):
        Coding(steps=4, most=7.5)

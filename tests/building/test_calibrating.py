"""As many atoms in the mean as were asked for, more where a row needs them."""

from dataclasses import replace

import pytest
import torch

from itda import Coding, build_from_activations, capture, extend_from_activations, merge
from itda.building.calibrating import calibrated
from itda.errors import ActivationError, OptionError
from itda.pursuit import default_coding, prepare, pursue, rebuild
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
    found = dictionary.encode(rows[dictionary.encode(rows, steps=1).unexplained > 1e-6]).l0
    assert found.double().mean() == pytest.approx(steps, rel=0.02)
    assert found.max() == 2 * steps == dictionary.coding.places
    assert found.min() < steps


@pytest.mark.parametrize("method", ["mp", "omp"])
def test_less_is_unexplained_than_with_as_many_for_every_row(llama, stories, method):
    found = capture(llama, stories, tokens=6000, progress=False).rows
    rows, held_out = found[:5000], found[5000:]
    dictionary = made(rows, atoms=256, coding=Coding(steps=4, most=8, method=method))
    varying, exact = dictionary.encode(held_out), dictionary.encode(held_out, steps=4)
    assert exact.atoms.shape == (len(held_out), 4)
    assert varying.l0.double().mean() == pytest.approx(4, rel=0.06)
    missed = [float((dictionary.decode(codes) - held_out).square().sum()) for codes in (varying, exact)]
    assert missed[0] < 0.9 * missed[1]


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
@pytest.mark.parametrize("method", ["mp", "omp", "gp"])
def test_a_code_ends_as_soon_as_what_is_missed_is_short_enough(rows, backend, method):
    atoms = torch.nn.functional.normalize(rows[:96], dim=1)
    coding, some = Coding(steps=8, method=method, stop_below=1.5), rows[96:296]
    assert len(torch.linalg.vector_norm(some, dim=1).long().unique()) > 2  # rows of several lengths
    codes = pursue(some, atoms, coding, backend=backend)
    missed = torch.linalg.vector_norm(some - rebuild(codes, atoms), dim=1)
    assert bool(((missed <= 1.5) | (codes.l0 == 8) | (method != "omp")).all())
    for row in (codes.l0 > 1).nonzero()[:20, 0].tolist():  # one step less was not enough
        steps = int(codes.l0[row]) - 1
        before = pursue(some[row : row + 1], atoms, Coding(steps=steps, method=method), backend=backend)
        assert float(torch.linalg.vector_norm(some[row] - rebuild(before, atoms)[0])) > 1.5
    short = pursue(some[:1] * 1e-3, atoms, coding, backend=backend)
    assert int(short.l0[0]) == 1  # a row that is not the mean has one at least


def test_steps_where_it_is_used_are_exactly_so_many(rows):
    dictionary = made(rows, atoms=96, steps=4)
    assert str(dictionary.coding).startswith("4 steps in the mean, at most 8, of orthogonal matching pursuit")
    exact = dictionary.coding.with_options(steps=6)
    assert exact == Coding(steps=6, method="omp", nonnegative=True)
    assert torch.equal(dictionary.encode(rows, steps=6).atoms, dictionary.encode(rows, coding=exact).atoms)


def test_a_threshold_of_ones_own_and_exactly_as_many_stay(rows):
    for coding in (Coding(steps=4, method="omp"), Coding(steps=4, stop_at=0.2), Coding(steps=4, stop_below=1.5)):
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
    assert merged.encode(rows).l0.double().mean() == pytest.approx(4, rel=0.04)
    assert merge(parts).coding.stop_below == min(part.coding.stop_below for part in parts)
    wider = extend_from_activations(parts[0], rows[3000:], atoms=64, progress=False)
    assert wider.coding.stop_below <= parts[0].coding.stop_below
    assert wider.encode(rows).unexplained.double().mean() < parts[0].encode(rows).unexplained.double().mean()


@pytest.mark.parametrize("times", [300, 1000, 1e6])
def test_a_few_long_rows_do_not_decide(rows, times):
    some = rows.clone()
    some[::2000] *= times
    dictionary = made(some, atoms=96, steps=4, method="random", center=False)
    assert dictionary.encode(rows).l0.double().mean() == pytest.approx(4, rel=0.06)


def test_where_no_row_can_say_every_row_has_the_steps(rows):
    some = rows[:400]
    dictionary = made(some, atoms=400, steps=4, method="random")
    assert dictionary.encode(rows[400:]).l0.max() == 4
    assert "in the mean" not in repr(dictionary)
    small = made(rows, atoms=96, steps=4)
    grown = extend_from_activations(small, rows[:50] + 0.5, atoms=50, progress=False)
    assert grown.coding == small.coding


def test_thresholds_of_ones_own_stay_when_parts_are_joined(rows):
    for coding in (Coding(steps=8, stop_at=0.1, method="omp"), Coding(steps=8, stop_below=1.5, method="omp")):
        parts = [made(part, atoms=64, coding=coding) for part in rows.split(3000)]
        assert merge(parts).coding == merge(parts, rows=rows).coding == coding
        assert extend_from_activations(parts[0], rows[3000:], atoms=20, progress=False).coding == coding


def test_a_threshold_found_elsewhere_is_found_anew(rows):
    asked = Coding(steps=4, most=8, method="omp", nonnegative=True)
    plain = made(rows, atoms=96, coding=asked)
    assert made(rows, atoms=96, coding=replace(asked, stop_below=100.0)).coding == plain.coding
    with pytest.raises(OptionError, match="contradict each other"):
        Coding(steps=4, most=8, stop_at=0.1)


def test_rows_of_zeros_are_refused(rows):
    for method in ("budget", "greedy"):
        with pytest.raises(ActivationError, match="fewer than the 2 steps"):
            made(torch.zeros(50, 8), atoms=4, steps=2, method=method)


def test_fewer_at_most_than_in_the_mean_is_refused():
    with pytest.raises(OptionError, match="most=3 is less than the steps=4"):
        Coding(steps=4, most=3)
    with pytest.raises(OptionError, match="most must be a whole number"):
        Coding(steps=4, most=7.5)
    for length in (0, -1.0, float("nan"), float("inf"), "1"):
        with pytest.raises(OptionError, match="stop_below must be a finite number above 0"):
            Coding(steps=4, stop_below=length)

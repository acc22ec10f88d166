"""Matching layers: what counts as a hit, intervals, and what is refused."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from itda.compare import LayerMatrix, accuracy_table, match_layers, paired_difference
from itda.errors import OptionError, ShapeError

DEPTH = 4


def matrix(models=3, noise=0.0, seed=0, **changes):
    """Models whose layers are the more alike, the nearer they are."""
    layers = np.tile(np.arange(DEPTH), models)
    values = 1 / (1 + np.abs(layers[:, None] - layers))
    values = values + noise * np.random.default_rng(seed).standard_normal(values.shape)
    names = [f"m{number}" for number in range(models) for _ in range(DEPTH)]
    facts = {"measure": "cka", "models": tuple(names), "sites": tuple(f"resid_post.{layer}" for layer in layers)}
    return LayerMatrix(**{**facts, "values": values, **changes})


def test_perfect_and_self_pairs_do_not_count():
    found = match_layers(matrix())
    assert (found.accuracy, found.decisions, found.mean_miss, found.chance) == (1, 3 * 2 * DEPTH, 0, 1 / DEPTH)
    assert found.interval == (1, 1)
    blind = matrix()
    for rows in blind.layers.values():
        blind.values[np.ix_(rows, rows)] = 100  # what a model says of itself must not matter
    assert match_layers(blind).accuracy == 1


def test_what_is_no_matching_is_refused():
    with pytest.raises(OptionError, match="match_layers returns"):
        paired_difference("overlap", "cka")
    with pytest.raises(OptionError, match="match_layers returns"):
        accuracy_table([3])


def test_ties_are_misses():
    same = matrix(values=np.ones((12, 12)))
    found = match_layers(same)
    assert found.accuracy == 0
    assert found.ties == found.decisions == 24
    assert found.mean_miss == pytest.approx(np.abs(np.arange(4)[:, None] - np.arange(4)).mean())


def test_a_layer_off_by_one_is_a_miss_of_one():
    shifted = matrix(models=2)
    shifted.values[:DEPTH, DEPTH:] = np.roll(np.eye(DEPTH), 1, axis=1)
    shifted.values[DEPTH:, :DEPTH] = np.eye(DEPTH)
    found = match_layers(shifted)
    assert found.pairs == {("m0", "m1"): (False,) * 4, ("m1", "m0"): (True,) * 4}
    assert found.accuracy == 0.5
    assert found.mean_miss == pytest.approx((1 + 1 + 1 + 3) / 8)


def test_layers_are_matched_by_name():
    other = matrix(models=2)
    sites = other.sites[:DEPTH] + tuple(f"resid_post.{layer + 1}" for layer in range(DEPTH))
    with pytest.raises(ShapeError, match="m1 has resid_post.1"):
        match_layers(matrix(models=2, sites=sites))


def test_the_table_says_how_far_the_first_is_ahead():
    first, other = match_layers(matrix()), match_layers(matrix(noise=0.6, seed=1, measure="rsa"))
    difference, ends = paired_difference(first, other)
    shown = io.StringIO()
    Console(file=shown, width=140).print(accuracy_table([first, other]))
    assert "cka ahead" in shown.getvalue()
    assert f"{difference:+.2f} ({ends[0]:+.2f} to {ends[1]:+.2f})" in shown.getvalue()


def test_what_is_missing_is_no_decision():
    holes = matrix()
    holes.values[0, 5] = np.nan
    found = match_layers(holes)
    assert (found.decisions, found.missing, found.accuracy) == (23, 1, 1)
    nothing = match_layers(matrix(values=np.full((12, 12), np.nan)))
    assert nothing.decisions == 0
    assert math.isnan(nothing.accuracy)
    assert nothing.to_dict()["accuracy"] is None
    assert holes.to_dict()["values"][0][5] is None
    json.dumps([holes.to_dict(), found.to_dict(), nothing.to_dict()], allow_nan=False)


def test_a_measure_gains_nothing_by_being_silent():
    """Where one says nothing, the other's answer does not count either."""
    wrong = matrix(models=3)
    wrong.values[0, DEPTH : 2 * DEPTH] = [0, 9, 0, 0]
    silent = matrix(models=3)
    silent.values[0, DEPTH] = np.nan
    first, second = match_layers(silent), match_layers(wrong)
    assert (first.accuracy, second.accuracy) == (1, 23 / 24)
    assert paired_difference(first, second)[0] == 0


def test_noise_brings_it_down_to_chance_within_its_interval():
    found = [match_layers(matrix(models=5, noise=100, seed=seed)) for seed in range(20)]
    assert np.mean([one.accuracy for one in found]) == pytest.approx(1 / DEPTH, abs=0.05)
    covered = [one.interval[0] <= one.chance <= one.interval[1] for one in found]
    assert sum(covered) >= 15


def test_differences_are_paired():
    good, bad = match_layers(matrix(models=5, noise=0.2)), match_layers(matrix(models=5, noise=0.8))
    difference, ends = paired_difference(good, bad)
    assert difference == pytest.approx(good.accuracy - bad.accuracy)
    assert ends[0] < difference < ends[1]
    same, ends = paired_difference(bad, bad)
    assert (same, ends) == (0, (0, 0))
    with pytest.raises(OptionError, match="same models"):
        paired_difference(good, match_layers(matrix(models=4)))


def test_two_models_have_no_interval():
    assert match_layers(matrix(models=2, noise=0.5)).interval is None


def test_shown():
    assert "m0 (down), m1 (across)" in str(matrix())
    assert "how alike layers are at resid_post" in str(matrix())
    assert str(matrix()).count("(across)") == 3
    lopsided = matrix()
    lopsided.values[0, 5] = 0.123
    assert str(lopsided).count("(across)") == 6
    assert "0.123" in str(lopsided)
    assert "1.00 (1.00 to 1.00) of 24 layers found, chance 0.25" in str(match_layers(matrix()))


def test_bad_input():
    with pytest.raises(OptionError, match="layer_matrix"):
        match_layers(np.eye(3))
    with pytest.raises(OptionError, match="only m0"):
        match_layers(matrix(models=1))
    with pytest.raises(ShapeError, match="m0 has 4, m1 has 2"):
        match_layers(uneven())
    with pytest.raises(ShapeError, match=r"\(12, 12\)"):
        matrix(values=np.eye(3))
    with pytest.raises(OptionError, match="resamples"):
        match_layers(matrix(), resamples=0)
    with pytest.raises(OptionError, match="no model 'm9'"):
        matrix().between("m0", "m9")


def uneven():
    return LayerMatrix(measure="cka", models=("m0",) * 4 + ("m1",) * 2, sites=("",) * 6, values=np.eye(6))

"""Every backend, method and option: each choice is a best one, and what is left is what the reference leaves."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.pursuit import Coding, prepare, pursue
from itda.pursuit.halves import BFLOAT16, HIGH_PARTS, HalfProducts
from support.oracle import assert_every_choice_is_a_best_one, residual_norms, rounding_of_coefficients
from support.signals import adversarial, coherent, unit

METHODS = ("mp", "omp", "gp")
# Rows of a Gram matrix of 40 atoms in 16 bits take 80 bytes: no room at all, and room for 64 rows of it
BUDGETS = {"whole": None, "none": 0}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 12),
    width=st.integers(1, 24),
    atoms=st.one_of(st.integers(1, 40), st.sampled_from([127, 128, 129, 300, 1100])),
    steps=st.integers(1, 12),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    kind=st.sampled_from(["random", "coherent", "duplicated", "nearly duplicated", "zero rows", "atoms as rows"]),
    nonnegative=st.booleans(),
    seed=st.integers(0, 99),
)
def test_on_adversarial_inputs(rows, width, atoms, steps, scale, kind, nonnegative, seed):
    x, dictionary = adversarial(rows, width, atoms, kind, seed)
    x = x * scale
    for backend, method, (_, memory) in itertools.product(("torch", "numba"), METHODS, BUDGETS.items()):
        if backend == "numba" and memory is not None:
            continue
        coding = Coding(steps=steps, method=method, nonnegative=nonnegative)
        assert_every_choice_is_a_best_one(x, dictionary, coding, backend, memory)
        for refit in (False, True):
            codes = pursue(x, prepare(dictionary, memory=memory), coding.with_options(refit=refit), backend=backend)
            lost = residual_norms(x, dictionary, codes)
            allowed = 1e-4 + rounding_of_coefficients(codes.coefficients) / x.double().norm(dim=1).clamp_min(1e-300)
            assert (lost <= 1 + allowed).all()
            if method == "omp" and not nonnegative and not refit:
                plain = pursue(x, dictionary, coding, backend="reference")
                same = (codes.atoms == plain.atoms).all(1)  # ties may go either way
                expected = residual_norms(x, dictionary, plain)
                assert ((lost - expected).abs() <= allowed + rounding_of_coefficients(plain.coefficients))[same].all()
            assert ((codes.unexplained.double() - lost.square()).abs() <= allowed).all()
            assert not nonnegative or (codes.coefficients[codes.atoms >= 0] > 0).all()


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("refit", [False, True])
def test_leaves_what_the_reference_leaves(backend, method, nonnegative, refit):
    x, dictionary = coherent(60, 48, 300)
    coding = Coding(steps=9, method=method, nonnegative=nonnegative, refit=refit)
    plain, fast = (pursue(x, dictionary, coding, backend=name) for name in ("reference", backend))
    assert (residual_norms(x, dictionary, fast) - residual_norms(x, dictionary, plain)).abs().max() < 1e-4
    assert torch.allclose(fast.unexplained, plain.unexplained, atol=1e-5)
    assert torch.allclose(fast.cosine, plain.cosine, atol=1e-5)


@pytest.mark.parametrize("width", [512, 600])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nonnegative", [False, True])
def test_first_correlations_in_bfloat16_choose_as_float32_does(width, method, nonnegative, monkeypatch):
    """As on a processor with matrix units for them."""
    monkeypatch.setattr("itda.pursuit.prepared._has_matrix_units", lambda: True)
    x, dictionary = coherent(24, width, 1500)
    x[0], x[1] = 5 * dictionary[3], 0
    x[2] = dictionary[4] + 1e-3 * x[2] / x[2].norm()  # hardly anything left after one step
    x[3] = -dictionary.sum(0)  # away from all atoms
    coding = Coding(steps=12, method=method, nonnegative=nonnegative)
    assert_every_choice_is_a_best_one(x, dictionary, coding, "numba")
    fast = pursue(x, dictionary, coding, backend="numba")
    assert fast.route.endswith("first products in bfloat16, looked at again in float32")
    plain = pursue(x, dictionary, coding, backend="reference")
    assert (residual_norms(x, dictionary, fast) - residual_norms(x, dictionary, plain)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["coherent", "random", "one direction"])
def test_the_error_of_products_in_bfloat16_is_bounded(kind):
    x, dictionary = coherent(50, 600, 1500)
    if kind == "random":
        dictionary = unit(torch.randn(1500, 600))
    if kind == "one direction":
        dictionary = unit(dictionary[:1] + 1e-3 * dictionary)
    x, halves = unit(x), HalfProducts(dictionary[:1000])
    halves.append(dictionary[1000:])
    first = torch.empty(50, 1500, dtype=torch.bfloat16)
    slack = halves.correlations(x, first)
    error = (first.double() - x.double() @ dictionary.double().T).abs()
    bound = slack[:, None] * halves.spread + 1.01 * BFLOAT16 * first.float().abs() + HIGH_PARTS
    assert (error <= bound).all()
    assert kind == "random" or bound.mean() < 0.01


def test_rounding_rules_no_atom_out_of_a_nonnegative_code():
    """Correlations that are a little below zero in 16 bits and a little above it in truth."""
    x, dictionary = coherent(400, 16, 60, seed=3)
    coding = Coding(steps=24, nonnegative=True)
    for backend in ("numba", "torch"):
        assert_every_choice_is_a_best_one(x, dictionary, coding, backend, tolerance=2e-6)


def test_rounding_ends_no_nonnegative_code(monkeypatch):
    """Of all atoms one is ahead of zero, by less than a product in bfloat16 can tell."""
    monkeypatch.setattr("itda.pursuit.prepared._has_matrix_units", lambda: True)
    base = unit(torch.randn(1, 512))[0]
    own = unit(torch.randn(1100, 512))
    atoms = unit(base + 0.3 * own)
    ahead = torch.arange(200)
    share = (atoms[ahead] @ base) / (atoms[ahead] * own[ahead]).sum(1)
    rows = unit(share[:, None] * own[ahead] - base)
    rows = unit(rows + (2e-5 - (rows * atoms[ahead]).sum(1))[:, None] * atoms[ahead])
    codes = pursue(rows, atoms, Coding(steps=1, nonnegative=True), backend="numba")
    assert torch.equal(codes.atoms[:, 0].long(), ahead)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("angle", [1e-2, 9e-4, 1e-4])
def test_orthogonal_pursuit_tells_atoms_apart_that_are_nearly_the_same(backend, angle):
    atoms = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    codes = pursue(torch.tensor([[1.0, 1.0]]), atoms, Coding(steps=2, method="omp"), backend=backend)
    assert residual_norms(torch.tensor([[1.0, 1.0]]), atoms, codes) < 1e-3
    assert codes.l0.tolist() == [2]


@pytest.mark.parametrize("memory", [None, 2 * 64 * 70])
def test_more_copies_of_an_atom_than_are_looked_at_again(memory):
    """Eight and more nearly equal atoms are all within the rounding of 16 bits."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(8, 32, generator=generator)
    dictionary = unit(base.repeat_interleave(8, 0) + 3e-5 * torch.randn(64, 32, generator=generator))
    x = base[:6] + 0.5 * base[2:] + 0.1 * torch.randn(6, 32, generator=generator)
    for backend in ("torch", "numba") if memory is None else ("torch",):
        assert_every_choice_is_a_best_one(x, dictionary, Coding(steps=8), backend, memory, tolerance=3e-6)


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
@pytest.mark.parametrize("method", METHODS)
def test_easy_rows_stop_early(backend, method):
    x, dictionary = coherent(50, 32, 200)
    coding = Coding(steps=16, method=method, stop_at=0.05)
    codes = pursue(x, dictionary, coding, backend=backend)
    full = pursue(x, dictionary, Coding(steps=16, method=method), backend=backend)
    reached = codes.unexplained <= 0.05 + 1e-6
    assert reached.any()
    assert torch.equal(codes.atoms[~reached], full.atoms[~reached])
    assert codes.l0.float().mean() < 0.6 * full.l0.float().mean()
    for steps in range(1, 16):  # one step less would not have been enough
        shorter = pursue(x, dictionary, Coding(steps=steps, method=method), backend=backend)
        longer = codes.l0 > shorter.l0
        assert (shorter.unexplained[longer] > 0.05 - 1e-6).all()


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
@pytest.mark.parametrize("method", METHODS)
def test_nonnegative_codes_only_add(backend, method):
    x, dictionary = coherent(40, 24, 150)
    signed = pursue(x, dictionary, Coding(steps=8, method=method), backend=backend)
    added = pursue(x, dictionary, Coding(steps=8, method=method, nonnegative=True), backend=backend)
    assert (signed.coefficients < 0).any()
    assert (added.coefficients[added.atoms >= 0] > 0).all()
    assert added.unexplained.mean() > signed.unexplained.mean()


def test_a_row_against_all_atoms_has_an_empty_nonnegative_code():
    codes = pursue(-torch.eye(3), torch.eye(3), Coding(steps=2, nonnegative=True))
    assert (codes.atoms == -1).all()
    assert (codes.unexplained == 1).all()
    assert (codes.cosine == 0).all()


def test_methods_keep_what_they_promise():
    """OMP leaves least for its atoms, gradient pursuit lies between it and plain pursuit."""
    x, dictionary = coherent(80, 40, 200)
    plain, gradient, orthogonal = (
        pursue(x, dictionary, Coding(steps=10, method=method)).unexplained.mean() for method in ("mp", "gp", "omp")
    )
    assert orthogonal < gradient < plain


def test_real_activations(data, gpt2, stories):
    """Of a real model, on atoms that are its activations, near-copies among them."""
    import itda

    activations = itda.capture(gpt2, stories, "resid_post.3", tokens=3000, progress=False)
    rows = activations.rows - activations.rows.mean(0)
    dictionary = unit(rows[:1500])
    x = rows[-40:]
    for method in METHODS:
        coding = Coding(steps=8, method=method)
        plain = residual_norms(x, dictionary, pursue(x, dictionary, coding, backend="reference"))
        for backend in ("torch", "numba"):
            assert_every_choice_is_a_best_one(x, dictionary, coding, backend)
            lost = residual_norms(x, dictionary, pursue(x, dictionary, coding, backend=backend))
            assert np.abs((lost - plain).numpy()).max() < 1e-4

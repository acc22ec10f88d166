"""Every backend, method and option: each choice is a best one, and what is left is what the reference leaves."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.pursuit import Coding, prepare, pursue
from support.oracle import assert_every_choice_is_a_best_one, residual_norms, rounding_of_coefficients
from support.signals import adversarial, coherent, unit

METHODS = ("mp", "omp", "gp")
# Rows of a Gram matrix of 40 atoms in 16 bits take 80 bytes: no room at all, and room for 64 rows of it
BUDGETS = {"whole": None, "none": 0}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 12),
    width=st.integers(1, 24),
    atoms=st.integers(1, 40),
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
def test_first_correlations_in_bfloat16_choose_as_float32_does(width, method):
    """A dictionary of this size takes products in bfloat16, where the processor has matrix units for them."""
    x, dictionary = coherent(24, width, 1500)
    x[0], x[1] = 5 * dictionary[3], 0
    x[2] = dictionary[4] + 1e-3 * x[2] / x[2].norm()  # hardly anything left after one step
    coding = Coding(steps=12, method=method)
    assert_every_choice_is_a_best_one(x, dictionary, coding, "numba")
    fast = pursue(x, dictionary, coding, backend="numba")
    plain = pursue(x, dictionary, coding, backend="reference")
    assert (residual_norms(x, dictionary, fast) - residual_norms(x, dictionary, plain)).abs().max() < 1e-4


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
    for backend, method in itertools.product(("torch", "numba"), METHODS):
        coding = Coding(steps=8, method=method)
        assert_every_choice_is_a_best_one(x, dictionary, coding, backend)
        fast, plain = (pursue(x, dictionary, coding, backend=name) for name in (backend, "reference"))
        lost = [residual_norms(x, dictionary, codes) for codes in (fast, plain)]
        assert np.abs((lost[0] - lost[1]).numpy()).max() < 1e-4

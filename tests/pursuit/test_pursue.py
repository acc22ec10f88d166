"""Every backend meets the plain definitions and known answers."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import itda
from itda.errors import ActivationError, BackendError, OptionError, ShapeError
from itda.pursuit import Codes, Coding, blocks, prepare, pursue, rebuild, reference
from support.signals import coherent, planted, unit

ROUTES = [(backend, method) for backend in ("torch", "numba") for method in ("mp", "omp", "gp")]


@pytest.mark.parametrize(("backend", "method"), [*ROUTES, *(("reference", method) for method in ("mp", "omp", "gp"))])
def test_finds_planted_atoms_in_order_of_size(backend, method):
    rows, atoms, chosen = planted(rows=40, width=256, atoms=64, active=3)
    codes = pursue(rows, atoms, Coding(steps=3, method=method), backend=backend)
    assert torch.equal(codes.atoms.long(), chosen)
    if method == "omp":  # exact recovery; plain pursuit keeps what the atoms share
        assert codes.unexplained.max() < 1e-6


@pytest.mark.parametrize(("backend", "method"), ROUTES)
@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize(
    ("rows", "width", "atoms", "steps"), [(50, 33, 70, 7), (1, 8, 1, 1), (9, 5, 3, 8), (3, 64, 129, 16)]
)
def test_agrees_with_the_plain_definition(backend, method, refit, rows, width, atoms, steps):
    x, dictionary = coherent(rows, width, atoms)
    coding = Coding(steps=steps, method=method, refit=refit)
    plain, fast = (pursue(x, dictionary, coding, backend=name) for name in ("reference", backend))
    norms = x.norm(dim=1)
    residuals = [(x - rebuild(codes, dictionary)).norm(dim=1) / norms for codes in (fast, plain)]
    assert (residuals[0] - residuals[1]).abs().max() < 1e-4
    clear = gap_to_second_best(x, dictionary, steps) > 1e-3
    assert torch.equal(fast.atoms[clear], plain.atoms[clear])


def gap_to_second_best(x, dictionary, steps):
    """Smallest lead of the best atom over the second along the plain pursuit, relative to the row."""
    gaps = []
    for row in x.double().numpy():
        residual, lead = row.copy(), np.inf
        for _ in range(steps):
            size = np.sort(np.abs(dictionary.double().numpy() @ residual))[::-1]
            lead = min(lead, (size[0] - size[1]) / np.linalg.norm(row) if len(size) > 1 else np.inf)
            best = int(np.argmax(np.abs(dictionary.double().numpy() @ residual)))
            residual -= (dictionary.double().numpy()[best] @ residual) * dictionary.double().numpy()[best]
        gaps.append(lead)
    return torch.tensor(gaps)


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
def test_an_atom_chosen_again_is_listed_once(backend):
    # Two atoms at 60 degrees: plain pursuit goes to and fro between them
    atoms = torch.tensor([[1.0, 0.0], [0.5, 3**0.5 / 2]])
    codes = pursue(torch.tensor([[1.0, 1.0]]), atoms, steps=6, backend=backend)
    assert sorted(codes.atoms[0].tolist()) == [-1, -1, -1, -1, 0, 1]
    assert codes.l0.tolist() == [2]
    assert codes.unexplained[0] < 1e-3


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_zero_rows_have_empty_codes(backend):
    codes = pursue(torch.zeros(3, 8), unit(torch.randn(5, 8)), steps=4, backend=backend)
    assert (codes.atoms == -1).all()
    assert (codes.coefficients == 0).all()
    assert (codes.unexplained == 0).all()


def test_unused_places_come_last_and_are_marked():
    rows, atoms, _ = planted(rows=20, width=512, atoms=8, active=2)
    codes = pursue(rows, atoms, Coding(steps=8, method="omp"))
    used = codes.atoms >= 0
    assert (used[:, :-1] | ~used[:, 1:]).all()
    assert (codes.coefficients[~used] == 0).all()
    assert codes.atoms.dtype == torch.int32
    assert codes.coefficients.dtype == codes.unexplained.dtype == torch.float32


def test_refit_never_explains_less():
    x, atoms = coherent(60, 24, 80)
    plain = pursue(x, atoms, Coding(steps=8))
    fitted = pursue(x, atoms, Coding(steps=8, refit=True))
    assert torch.equal(plain.atoms, fitted.atoms)
    assert (fitted.unexplained <= plain.unexplained + 1e-5).all()
    assert fitted.unexplained.mean() < plain.unexplained.mean()


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_blocks_do_not_change_the_codes(backend, monkeypatch):
    x, atoms = coherent(50, 16, 30)
    whole = pursue(x, atoms, steps=5, backend=backend)
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 4 * 30 * 7)
    parts = pursue(x, atoms, steps=5, backend=backend)
    assert torch.equal(whole.atoms, parts.atoms)
    assert torch.allclose(whole.coefficients, parts.coefficients, atol=1e-6)


def test_numpy_and_prepared_atoms_are_the_same_as_torch():
    x, atoms = coherent(10, 12, 20)
    expected = pursue(x, atoms, steps=4)
    for rows, dictionary in ((x.numpy(), atoms.numpy()), (x, prepare(atoms)), (x.double(), atoms.double())):
        codes = pursue(rows, dictionary, steps=4)
        assert torch.equal(codes.atoms, expected.atoms)
        assert torch.equal(codes.coefficients, expected.coefficients)


def test_an_empty_set_of_rows_gives_empty_codes():
    codes = pursue(torch.empty(0, 4), unit(torch.randn(3, 4)), steps=2)
    assert codes.atoms.shape == (0, 2)


def test_dense_codes_rebuild_the_same_rows():
    x, atoms = coherent(10, 12, 20)
    codes = pursue(x, atoms, steps=4)
    assert torch.allclose(codes.to_dense(20) @ atoms, rebuild(codes, atoms), atol=1e-5)
    assert torch.equal(codes.usage(20), (codes.to_dense(20) != 0).sum(0))


def test_codes_can_be_cut_and_joined():
    x, atoms = coherent(10, 12, 20)
    codes = pursue(x, atoms, steps=4)
    joined = Codes.concatenate([codes[:3], codes[3:]])
    assert torch.equal(joined.atoms, codes.atoms)
    assert len(joined) == 10


@pytest.mark.parametrize(
    ("rows", "atoms", "options", "error", "says"),
    [
        (torch.ones(2, 3), torch.eye(4), {"steps": 1}, ShapeError, "width 4. Got 3"),
        (torch.ones(3), torch.eye(3), {"steps": 1}, ShapeError, "matrix"),
        ("text", torch.eye(3), {"steps": 1}, ShapeError, "matrix"),
        (torch.ones(2, 3, dtype=torch.complex64), torch.eye(3), {"steps": 1}, ShapeError, "real numbers"),
        (torch.full((2, 3), float("nan")), torch.eye(3), {"steps": 1}, ActivationError, "2 of 2 rows"),
        (torch.tensor([[1.0, float("inf")]]), torch.eye(2), {"steps": 1}, ActivationError, "first in row 0"),
        (torch.ones(2, 3), 2 * torch.eye(3), {"steps": 1}, ShapeError, "norm 1. Row 0 has norm 2"),
        (torch.ones(2, 3), torch.empty(0, 3), {"steps": 1}, ShapeError, "at least one atom"),
        (torch.ones(2, 3), torch.eye(3), {}, OptionError, "steps="),
        (torch.ones(2, 3), torch.eye(3), {"steps": 0}, OptionError, "at least 1"),
        (torch.ones(2, 3), torch.eye(3), {"steps": 2.0}, OptionError, "whole number"),
        (torch.ones(2, 3), torch.eye(3), {"steps": 1, "backend": "cuda"}, OptionError, "one of"),
        (torch.ones(2, 3), torch.eye(3), {"coding": 5}, OptionError, "Coding"),
    ],
)
def test_bad_input_says_what_was_wanted(rows, atoms, options, error, says):
    with pytest.raises(error, match=says):
        pursue(rows, atoms, **options)


def test_half_precision_rows_are_taken():
    x, atoms = coherent(5, 12, 20)
    codes = pursue(x.bfloat16(), atoms, steps=3)
    assert torch.equal(codes.atoms, pursue(x.bfloat16().float(), atoms, steps=3).atoms)


def test_codes_of_unknown_atoms_are_refused():
    codes = Codes(torch.tensor([[7]], dtype=torch.int32), torch.ones(1, 1), torch.zeros(1))
    with pytest.raises(ShapeError, match="atom 7; there are only 3"):
        rebuild(codes, torch.eye(3))


def test_the_reference_is_the_textbook_rule():
    atoms = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    code = reference.pursue_row(np.array([2.0, 1.0]), atoms, Coding(steps=2))
    assert code == pytest.approx({2: 2.2, 1: -0.32})  # <x, d2> = 2.2, and x - 2.2 d2 = (0.24, -0.32)


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_what_the_process_around_asks_for_changes_nothing(products, monkeypatch):
    """Autocast, faster and coarser float32 products, inference mode, a generator in use."""
    monkeypatch.setattr("itda.pursuit.prepared._has_matrix_units", lambda: products == "bfloat16")
    x, atoms = coherent(20, 512, 1100)
    expected = pursue(x, atoms, steps=6)
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu"), torch.inference_mode():
            prepared = prepare(atoms)
            inside = pursue(x, prepared, steps=6)
        outside = pursue(x, prepared, steps=6)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(torch.rand(1), drawn)
    for codes in (inside, outside):
        assert torch.equal(codes.atoms, expected.atoms)
        assert torch.equal(codes.coefficients, expected.coefficients)


def test_products_that_nothing_would_use_are_refused():
    rounded = prepare(torch.eye(3), products="bfloat16")
    with pytest.raises(OptionError, match="plain pursuit"):
        pursue(torch.ones(2, 3), rounded, Coding(steps=1, method="omp"))
    with pytest.raises(BackendError, match="those of float32"):
        pursue(torch.ones(2, 3), rounded, steps=1, backend="numba")
    assert pursue(torch.ones(2, 3), rounded, steps=1).route.endswith("first products in bfloat16")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_default_data_type_changes_nothing(dtype):
    rows = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    expected = itda.build_from_activations(rows, atoms=32, steps=3, progress=False)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = itda.build_from_activations(rows, atoms=32, steps=3, progress=False)
        assert torch.equal(found.atoms, expected.atoms)
        assert torch.equal(found.encode(rows).coefficients, expected.encode(rows).coefficients)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


FORKED = """
import multiprocessing, sys, torch, itda
from itda.errors import BackendError

rows = torch.randn(3000, 32, generator=torch.Generator().manual_seed(0))
atoms = torch.nn.functional.normalize(rows[:200], dim=1)
prepared = itda.pursuit.prepare(atoms)

def work(threads):
    torch.set_num_threads(threads)
    found = []
    for given in (atoms, prepared):
        try:
            codes = itda.pursuit.pursue(rows, given, steps=4)
            found.append((codes.route, float(codes.unexplained.mean())))
        except BackendError as error:
            found.append(str(error))
    return found

torch.set_num_threads(2)
whole = itda.pursuit.pursue(rows, prepared, steps=4)
assert whole.route.startswith("numba")
with multiprocessing.get_context("fork").Pool(2) as pool:
    refused, done = pool.map_async(work, [2, 1], chunksize=1).get(timeout=100)
assert all("spawn" in message for message in refused), refused
mean = float(whole.unexplained.mean())
assert all(route.startswith("torch") and abs(found - mean) < 1e-5 for route, found in done), done
again = itda.pursuit.pursue(rows, prepared, steps=4)
assert again.route.startswith("numba")
"""


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="no fork here")
def test_a_forked_process_does_not_wait_for_threads_that_are_gone():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=200)


SHARED = """
from concurrent.futures import ThreadPoolExecutor
import numba, torch
from itda.pursuit import prepare, pursue

generator = torch.Generator().manual_seed(0)
rows = torch.randn(12_000, 48, generator=generator)
atoms = prepare(torch.nn.functional.normalize(torch.randn(400, 48, generator=generator), dim=1))
blocks = torch.split(rows, 1000)
with ThreadPoolExecutor(6) as pool:
    found = list(pool.map(lambda block: pursue(block, atoms, steps=8), blocks))
assert numba.threading_layer() == "workqueue"
assert all(torch.equal(codes.atoms, pursue(block, atoms, steps=8).atoms) for codes, block in zip(found, blocks))
"""


def test_several_threads_encode_where_numba_takes_one_at_a_time():
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue"}
    subprocess.run([sys.executable, "-c", SHARED], check=True, timeout=200, env=environment)

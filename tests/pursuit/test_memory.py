"""What of the Gram matrix is kept within a budget, and that nothing but the time depends on it."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from itda.errors import BackendError, OptionError
from itda.pursuit import Block, Coding, Prepared, memory, prepare, pursue, rebuild
from itda.pursuit.gram import ROUNDING, SCALE
from support.signals import coherent

CPU, OTHER = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize(
    ("given", "size"),
    [("2GiB", 2**31), ("2 GB", 2 * 10**9), ("1.5kib", 1536), ("500", 500), (0, 0), (12345, 12345), ("3M", 3_000_000)],
)
def test_a_budget_is_read(given, size):
    assert memory.parse(given, CPU) == size


@pytest.mark.parametrize("given", ["lots", "-1", "2XB", -1, 1.5, True, "1ib", "", [1]])
def test_a_budget_that_cannot_be_read_says_so(given):
    with pytest.raises(OptionError, match="2GiB"):
        prepare(torch.eye(3), memory=given)


def test_no_budget_is_half_of_what_is_free():
    assert 0 < memory.parse(None, CPU) <= memory.free(CPU)


@pytest.mark.parametrize(
    ("device", "budget", "kind", "rows"),
    [
        (CPU, 4 * 10**6, "int16", 1000),  # 16 bits are as good on a CPU, and faster
        (OTHER, 4 * 10**6, "float32", 1000),
        (OTHER, 4 * 10**6 - 1, "int16", 1000),
        (CPU, 2 * 10**6 - 1, "rows", 999),
        (CPU, 128_000, "rows", 64),
        (CPU, 127_999, "none", 0),
        (CPU, 0, "none", 0),
    ],
)
def test_the_plan_goes_down_step_by_step(device, budget, kind, rows):
    assert memory.kind_of_gram(1000, budget, device) == (kind, rows)


@pytest.mark.parametrize("budget", [None, 80_000, 0])
def test_prepared_atoms_travel_to_other_processes(budget):
    x, atoms = coherent(100, 48, 400)
    prepared = prepare(atoms, memory=budget)
    expected = pursue(x, prepared, steps=4)
    for sent in (pickle.loads(pickle.dumps(prepared)), copy.deepcopy(prepared)):  # noqa: S301
        assert torch.equal(pursue(x, sent, steps=4).coefficients, expected.coefficients)


@pytest.mark.parametrize("budget", [None, 80_000, 0])
def test_threads_may_share_atoms(budget):
    x, atoms = coherent(1000, 48, 400)
    coding, blocks = Coding(steps=8), torch.split(x, 50)
    expected = [pursue(block, prepare(atoms, memory=budget), coding) for block in blocks]
    shared = prepare(atoms, memory=budget)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda block: pursue(block, shared, coding), blocks))
    finally:
        sys.setswitchinterval(before)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.atoms, other.atoms)
        assert torch.allclose(one.coefficients, other.coefficients, atol=1e-4)


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("method", ["mp", "omp", "gp"])
def test_codes_are_as_good_whatever_the_budget(method, refit):
    x, atoms = coherent(150, 48, 400)
    coding = Coding(steps=8, method=method, refit=refit)
    routes = {}
    for budget in (None, 2 * 400 * 100, 0):
        codes = pursue(x, prepare(atoms, memory=budget), coding)
        routes[codes.route] = codes
    expected = ["numba, int16 Gram matrix", "torch, Gram rows of the atoms in use", "torch, no Gram matrix"]
    assert list(routes) == (expected if method == "mp" else [expected[0], expected[2]])
    plain = pursue(x, atoms, coding, backend="reference")
    for codes in routes.values():
        assert torch.allclose(codes.unexplained, plain.unexplained, atol=1e-4)
        assert (codes.atoms == plain.atoms).float().mean() > 0.99


def test_rows_of_the_atoms_in_use_are_kept_and_the_oldest_let_go():
    x, atoms = coherent(300, 32, 500)
    prepared = prepare(atoms, memory=2 * 500 * 120)
    assert prepared.kind == "rows"
    pursue(x[:100], prepared, steps=4)
    first = prepared.gram.computed
    pursue(x[:100], prepared, steps=4)
    again = prepared.gram.computed - first
    assert again < first  # some were still there
    few = prepare(atoms, memory=2 * 500 * 400)
    pursue(x[:20], few, steps=4)
    first = few.gram.computed
    pursue(x[:20], few, steps=4)
    assert few.gram.computed == first  # all were


@pytest.mark.parametrize("budget", [None, 2 * 45 * 64, 0])
def test_a_grown_dictionary_is_like_a_fresh_one(budget):
    x, atoms = coherent(30, 12, 145)
    grown = prepare(atoms[:3], memory=budget)
    for start, end in ((3, 4), (4, 20), (20, 145)):
        pursue(x, grown, steps=3)  # so that something is kept that must grow too
        grown.append(atoms[start:end])
    fresh = prepare(atoms, memory=budget)
    assert torch.equal(grown.atoms, fresh.atoms)
    codes, expected = pursue(x, grown, steps=5), pursue(x, fresh, steps=5)
    assert torch.allclose(codes.unexplained, expected.unexplained, atol=1e-5)
    if budget is None:
        assert torch.allclose(grown.gram.matrix.float() * SCALE, atoms @ atoms.T, atol=1.01 * ROUNDING)
        assert torch.equal(grown.gram.matrix.triu(1).T, grown.gram.matrix.tril(-1)) or (
            (grown.gram.matrix - grown.gram.matrix.T).abs().max() <= 1
        )


def test_growth_into_a_reserved_buffer_copies_nothing():
    _, atoms = coherent(1, 12, 300)
    prepared = Prepared(atoms[:10], capacity=300)
    place = prepared.gram.buffer.data_ptr()
    for start in range(10, 300, 29):
        prepared.append(atoms[start : start + 29])
    assert prepared.gram.buffer.data_ptr() == place
    assert len(prepared) == 300


def test_a_dictionary_that_outgrows_its_budget_goes_on_with_less():
    x, atoms = coherent(40, 12, 600)
    prepared = Prepared(atoms[:100], memory=2 * 300 * 300)
    assert prepared.kind == "int16"
    prepared.append(atoms[100:])
    assert prepared.kind == "rows"
    codes = pursue(x, prepared, steps=4)
    assert torch.allclose(codes.unexplained, pursue(x, atoms, steps=4).unexplained, atol=1e-5)


@pytest.mark.parametrize("backend", ["numba", "torch", "reference"])
def test_a_block_encodes_against_the_atoms_there_are_by_now(backend):
    x, atoms = coherent(50, 16, 120)
    prepared = Prepared(atoms[:20])
    block = Block(x, prepared)
    which = torch.tensor([3, 4, 30])
    for end in (20, 21, 60, 120):
        prepared.append(atoms[len(prepared) : end])
        codes = block.pursue(Coding(steps=5), which, backend)
        expected = pursue(x[which], atoms[:end], steps=5, backend=backend)
        assert torch.equal(codes.atoms, expected.atoms)
        assert torch.allclose(codes.coefficients, expected.coefficients, atol=1e-4)
        assert torch.allclose(codes.unexplained, expected.unexplained, atol=1e-6)
        assert codes.route == expected.route


def test_a_block_may_use_more_atoms_than_are_kept():
    x, atoms = coherent(300, 12, 400)
    prepared = prepare(atoms, memory=2 * 400 * 70)
    codes = Block(x, prepared).pursue(Coding(steps=4), torch.arange(300))
    assert prepared.kind == "rows"
    assert torch.allclose(codes.unexplained, pursue(x, atoms, steps=4).unexplained, atol=1e-5)


def test_the_matrix_is_kept_as_long_as_it_fits():
    """Not only as long as the doubled buffer does."""
    _, atoms = coherent(1, 8, 700)
    prepared = Prepared(atoms[:400], memory=2 * 700 * 700)
    prepared.append(atoms[400:])
    assert prepared.kind == "int16"
    assert prepared.gram.capacity == 700


def test_a_backend_that_needs_the_whole_matrix_says_so():
    with pytest.raises(BackendError, match="memory budget"):
        pursue(torch.ones(2, 3), prepare(torch.eye(3), memory=0), steps=1, backend="numba")


def test_the_mean_is_taken_off_each_row():
    x, atoms = coherent(20, 12, 40)
    mean = torch.linspace(-1, 1, 12)
    codes, expected = pursue(x + mean, atoms, steps=4, mean=mean), pursue(x, atoms, steps=4)
    assert torch.allclose(rebuild(codes, atoms), rebuild(expected, atoms), atol=1e-4)


@pytest.mark.parametrize("method", ["omp", "gp"])
def test_fitting_a_few_rows_at_a_time_changes_nothing(method, monkeypatch):
    x, atoms = coherent(50, 16, 60)
    coding = Coding(steps=5, method=method)
    whole = pursue(x, atoms, coding, backend="torch")
    monkeypatch.setattr("itda.pursuit.torch_batched._FIT_BYTES", {"cpu": 8 * 5 * 16 * 7})
    parts = pursue(x, atoms, coding, backend="torch")
    assert torch.equal(whole.atoms, parts.atoms)
    assert torch.allclose(whole.coefficients, parts.coefficients, atol=1e-5)

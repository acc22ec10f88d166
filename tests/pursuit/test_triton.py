"""The GPU kernel, under Triton's interpreter where there is no GPU."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined
pytest.importorskip("triton")

from itda.errors import BackendError, OptionError  # noqa: E402
from itda.pursuit import Coding, prepare, pursue, rebuild, triton_gpu  # noqa: E402
from itda.pursuit.blocks import unit_and_norms  # noqa: E402
from support.oracle import assert_every_choice_is_a_best_one, residual_norms  # noqa: E402
from support.signals import adversarial, coherent  # noqa: E402


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(0, 5),
    width=st.integers(1, 12),
    atoms=st.integers(1, 40),
    steps=st.integers(1, 6),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    kind=st.sampled_from(["random", "coherent", "duplicated", "zero rows", "atoms as rows"]),
    nonnegative=st.booleans(),
    seed=st.integers(0, 99),
)
def test_on_adversarial_inputs(rows, width, atoms, steps, scale, kind, nonnegative, seed):
    x, dictionary = adversarial(rows, width, atoms, kind, seed)
    x, dictionary = (x * scale).to(DEVICE), dictionary.to(DEVICE)
    coding = Coding(steps=steps, nonnegative=nonnegative)
    # A CPU keeps 16 bits of the Gram matrix, which this kernel does not look at again
    tolerance = 1e-5 if DEVICE == "cuda" else 1e-4
    assert_every_choice_is_a_best_one(x, dictionary, coding, "triton", tolerance=tolerance)


@pytest.mark.parametrize("on_chip", [1024, 64])
@pytest.mark.parametrize(("refit", "nonnegative"), [(False, False), (True, False), (False, True)])
def test_leaves_what_the_reference_leaves(on_chip, refit, nonnegative):
    x, dictionary = coherent(6, 24, 300)
    coding = Coding(steps=5, refit=refit, nonnegative=nonnegative)
    plain = pursue(x, dictionary, coding, backend="reference")
    unit, norms = unit_and_norms(x.to(DEVICE))
    codes = triton_gpu.pursue_block(unit, prepare(dictionary.to(DEVICE)), coding, on_chip=on_chip)
    assert torch.equal(codes.atoms.cpu(), plain.atoms)
    assert torch.allclose(codes.coefficients.cpu() * norms.cpu()[:, None], plain.coefficients, atol=1e-3)
    assert torch.allclose(codes.unexplained.cpu(), plain.unexplained, atol=1e-4)
    assert torch.allclose(codes.cosine.cpu(), plain.cosine, atol=1e-4)


@pytest.mark.parametrize("on_chip", [1024, 16])
def test_easy_rows_stop_early(on_chip):
    x, dictionary = (part.to(DEVICE) for part in coherent(8, 16, 50))
    coding = Coding(steps=6, stop_at=0.1)
    codes = triton_gpu.pursue_block(unit_and_norms(x)[0], prepare(dictionary), coding, on_chip=on_chip)
    expected = pursue(x, dictionary, coding, backend="torch")
    assert torch.equal(codes.atoms, expected.atoms)
    assert (codes.atoms < 0).any()


@pytest.mark.parametrize("products", ["bfloat16", "float16", "tf32"])
def test_half_precision_products_leave_hardly_more(products):
    x, dictionary = (part.to(DEVICE) for part in coherent(8, 64, 120))
    exact = pursue(x, prepare(dictionary), steps=5, backend="triton")
    rounded = pursue(x, prepare(dictionary, products=products), steps=5, backend="triton")
    lost = [residual_norms(x, dictionary, codes).mean() for codes in (exact, rounded)]
    assert abs(lost[0] - lost[1]) < 5e-3
    assert rebuild(rounded, dictionary).shape == x.shape
    assert exact.route.startswith("triton")


def test_what_it_cannot_do_says_so():
    with pytest.raises(BackendError, match="plain pursuit only"):
        pursue(torch.ones(1, 2), torch.eye(2), Coding(steps=1, method="omp"), backend="triton")
    with pytest.raises(OptionError, match="products must be one of"):
        prepare(torch.eye(2), products="float8")

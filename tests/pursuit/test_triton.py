"""The GPU kernel, under Triton's interpreter where there is no GPU."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
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


@pytest.fixture(scope="module", autouse=True)
def _float32_gram_matrix():
    """As on a GPU: on a CPU the plan has 16 bits, which this kernel does not take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("itda.pursuit.memory.kind_of_gram", lambda size, budget, device: ("float32", size))
        yield


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
@example(rows=3, width=2, atoms=4, steps=5, scale=1e-6, kind="random", nonnegative=False, seed=0)  # 1e-8 is left
def test_on_adversarial_inputs(rows, width, atoms, steps, scale, kind, nonnegative, seed):
    x, dictionary = adversarial(rows, width, atoms, kind, seed)
    x, dictionary = (x * scale).to(DEVICE), dictionary.to(DEVICE)
    coding = Coding(steps=steps, nonnegative=nonnegative)
    assert_every_choice_is_a_best_one(x, dictionary, coding, "triton")


@pytest.mark.parametrize("on_chip", [1024, 64])
@pytest.mark.parametrize(("refit", "nonnegative"), [(False, False), (True, False), (False, True)])
def test_leaves_what_the_reference_leaves(on_chip, refit, nonnegative):
    x, dictionary = coherent(6, 24, 300)
    coding = Coding(steps=5, refit=refit, nonnegative=nonnegative)
    plain = pursue(x, dictionary, coding, backend="reference")
    unit, norms = unit_and_norms(x.to(DEVICE))
    codes = triton_gpu.pursue_block(unit, None, None, prepare(dictionary.to(DEVICE)), coding, on_chip=on_chip)
    assert torch.equal(codes.atoms.cpu(), plain.atoms)
    assert torch.allclose(codes.coefficients.cpu() * norms.cpu()[:, None], plain.coefficients, atol=1e-3)
    assert torch.allclose(codes.unexplained.cpu(), plain.unexplained, atol=1e-4)
    assert torch.allclose(codes.cosine.cpu(), plain.cosine, atol=1e-4)


@pytest.mark.parametrize("on_chip", [1024, 16])
def test_easy_rows_stop_early(on_chip):
    x, dictionary = (part.to(DEVICE) for part in coherent(8, 16, 50))
    coding = Coding(steps=6, stop_at=0.1)
    unit, norms = unit_and_norms(x)
    stops = coding.stop_shares(norms)
    codes = triton_gpu.pursue_block(unit, None, stops, prepare(dictionary), coding, on_chip=on_chip)
    expected = pursue(x, dictionary, coding, backend="torch")
    assert torch.equal(codes.atoms, expected.atoms)
    assert (codes.atoms < 0).any()


@pytest.mark.parametrize("products", ["bfloat16", "float16", *(["tf32"] if DEVICE == "cuda" else [])])
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
    prepared = prepare(torch.eye(2), products="bfloat16")
    with pytest.raises(BackendError, match="infers what is left"):
        pursue(torch.ones(1, 2), prepared, Coding(steps=1, stop_at=0.1), backend="triton")


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kernel", ["_pursue_on_chip", "_pursue_in_tiles"])
@pytest.mark.parametrize("correlations", ["fp32", "bf16"])
def test_compiles_for_a_gpu_without_one(kernel, capability, correlations):
    """The interpreter checks no types; the compiler does, and needs no GPU for it."""
    if kernel == "_pursue_in_tiles" and correlations == "bf16":
        pytest.skip("the tiled kernel is given float32")
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, kernel, str(capability), correlations],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "cubin", done.stderr


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from itda.pursuit import triton_gpu

kernel, capability, correlations = sys.argv[1:]
kinds = dict(
    correlations="*" + correlations, gram="*fp32", chosen="*i32", values="*fp32", atoms="i32", gram_stride="i32",
    steps="i32", floor="fp32", stops="*fp32", width="constexpr", nonnegative="constexpr",
)
source = ASTSource(getattr(triton_gpu, kernel), kinds, {"width": 1024, "nonnegative": False})
compiled = triton.compile(source, target=GPUTarget("cuda", int(capability), 32), options={"num_warps": 4})
print([name for name in compiled.asm if name == "cubin"][0])
"""

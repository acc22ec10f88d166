"""Measures of similarity: plain definitions, invariances, blocks, and what they refuse."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

import itda
from itda import compare
from itda.compare import representations
from itda.compare.representations import fold_ends
from itda.data.activations import BareRows
from itda.errors import ActivationError, MismatchError, OptionError, ShapeError
from support import tiny

SCALARS = ("effective_rank", "components_99", "median_norm")
LINEAR = ("cca", "svcca", "svcca_larger", "svcca_20", "pwcca", "procrustes", "regression")
REAL = tuple(name for name in compare.measures() if name not in SCALARS)
LOOSE = {"relative_atoms", "codes"}  # float32 choices of atoms may differ where two are as good


def related(rows: int = 600, widths: tuple[int, int] = (12, 9), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two representations that share some of what they hold, of unequal variances and off the origin."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(rows, 6, generator=generator)
    found = []
    for width in widths:
        own = torch.randn(rows, width, generator=generator)
        mixed = shared @ torch.randn(6, width, generator=generator) + own
        found.append(mixed * torch.linspace(0.5, 3, width) + torch.randn(width, generator=generator) * 5)
    return found[0], found[1]


def rotation(width: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))[0]


def centred(rows: Tensor) -> Tensor:
    return rows.double() - rows.double().mean(0)


def test_linear_cka_is_its_definition() -> None:
    a, b = related()
    x, y = centred(a), centred(b)
    wanted = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert compare.similarity(a, b, "cka") == pytest.approx(float(wanted), rel=1e-9)


def test_debiased_cka_is_song_et_al() -> None:
    a, b = related(rows=50)

    def hsic(k: Tensor, m: Tensor) -> float:
        n = len(k)
        k, m = k - torch.diag(k.diag()), m - torch.diag(m.diag())
        found = (k @ m).trace() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
        return float(found) / (n * (n - 3))

    k, m = (x.double() @ x.double().T for x in (a, b))
    wanted = hsic(k, m) / (hsic(k, k) * hsic(m, m)) ** 0.5
    assert compare.similarity(a, b, "cka_debiased") == pytest.approx(wanted, rel=1e-6)


def test_debiased_cka_of_unrelated_rows_is_about_zero_where_the_biased_is_not() -> None:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(8):
        a, b = (torch.randn(40, 60, generator=generator) for _ in range(2))
        found.append([compare.similarity(a, b, name) for name in ("cka", "cka_debiased")])
    biased, debiased = np.mean(found, 0)
    assert biased > 0.5
    assert abs(debiased) < 0.05


def canonical_correlations(x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.svdvals(torch.linalg.qr(x)[0].T @ torch.linalg.qr(y)[0])


def test_cca_by_orthonormal_bases() -> None:
    a, b = related()
    wanted = canonical_correlations(centred(a), centred(b)).mean()
    assert compare.similarity(a, b, "cca") == pytest.approx(float(wanted), rel=1e-6)


def test_svcca_names_its_denominator() -> None:
    a, b = related(widths=(30, 12))
    kept = []
    for rows in map(centred, (a, b)):
        left, values, _ = torch.linalg.svd(rows, full_matrices=False)
        share = values.square().cumsum(0) / values.square().sum()
        size = int((share < 0.99).sum()) + 1
        kept.append(left[:, :size] * values[:size])
    correlations = canonical_correlations(*kept)
    sizes = [part.shape[1] for part in kept]
    assert sizes[0] != sizes[1]
    assert compare.similarity(a, b, "svcca") == pytest.approx(float(correlations.sum() / min(sizes)), rel=1e-6)
    assert compare.similarity(a, b, "svcca_larger") == pytest.approx(float(correlations.sum() / max(sizes)), rel=1e-6)


def test_pwcca_weighs_by_what_directions_account_for() -> None:
    a, b = related()
    x, y = centred(a), centred(b)
    basis, other = torch.linalg.qr(x)[0], torch.linalg.qr(y)[0]
    left, correlations, _ = torch.linalg.svd(basis.T @ other, full_matrices=False)
    weights = ((basis @ left).T @ x).abs().sum(1)
    wanted = (weights @ correlations) / weights.sum()
    assert compare.similarity(a, b, "pwcca") == pytest.approx(float(wanted), rel=1e-6)


def test_procrustes_by_scipy() -> None:
    a, b = related(widths=(10, 10))
    x, y = (centred(rows) / centred(rows).norm() for rows in (a, b))
    turn, _ = scipy.linalg.orthogonal_procrustes(y.numpy(), x.numpy())
    distance = float((x - y @ torch.from_numpy(turn)).square().sum())
    assert compare.similarity(a, b, "procrustes") == pytest.approx(1 - distance / 2, rel=1e-6)


def test_regression_by_sklearn_on_rows_it_was_not_fitted_on() -> None:
    a, b = (rows.double().numpy() for rows in related(rows=203))
    ends = fold_ends(203)
    penalties = np.logspace(-6, 1, 8)
    missed, there = np.zeros(8), 0.0
    for begin, end in zip([0, *ends], ends, strict=False):
        held = np.zeros(203, bool)
        held[begin:end] = True
        scale = np.linalg.eigvalsh((a[~held] - a[~held].mean(0)).T @ (a[~held] - a[~held].mean(0))).mean()
        for place, penalty in enumerate(penalties):
            fitted = Ridge(alpha=penalty * scale, solver="svd").fit(a[~held], b[~held])
            missed[place] += ((fitted.predict(a[held]) - b[held]) ** 2).sum()
        there += ((b[held] - b[~held].mean(0)) ** 2).sum()
    assert compare.similarity(a, b, "regression") == pytest.approx(1 - missed.min() / there, rel=1e-6)


def test_rsa_by_scipy() -> None:
    a, b = related(rows=80)
    wanted = scipy.stats.spearmanr(torch.pdist(a).numpy(), torch.pdist(b).numpy()).statistic
    assert compare.similarity(a, b, "rsa") == pytest.approx(wanted, abs=1e-5)


def test_rbf_cka_by_its_definition() -> None:
    a, b = (rows.double() for rows in related(rows=90))
    kernels = []
    for rows in (a, b):
        distances = torch.cdist(rows, rows)
        width = 0.8 * torch.pdist(rows).median()
        h = torch.eye(90) - 1 / 90
        kernels.append(h.double() @ torch.exp(-(distances**2) / (2 * width**2)) @ h.double())
    wanted = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    assert compare.similarity(a, b, "cka_rbf") == pytest.approx(float(wanted), abs=1e-5)


def test_neighbours_by_counting() -> None:
    a, b = related(rows=60)
    shared = 0
    nearest = []
    for rows in (a, b):
        unit = torch.nn.functional.normalize(centred(rows), dim=1)
        alike = unit @ unit.T
        nearest.append([set(sorted(set(range(60)) - {i}, key=lambda j: -alike[i, j])[:10]) for i in range(60)])
    shared = sum(len(one & other) for one, other in zip(*nearest, strict=True))
    assert compare.similarity(a, b, "neighbours") == pytest.approx(shared / 600)


@pytest.mark.parametrize("measure", compare.measures())
@pytest.mark.parametrize("whiten", [False, True])
def test_one_for_itself(measure: str, whiten: bool) -> None:
    a, _ = related()
    assert compare.similarity(a, a.clone(), measure, whiten=whiten) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("measure", REAL)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_unchanged_by_what_it_should_not_see(measure: str, seed: int, scale: float, shift: float) -> None:
    a, b = related(rows=300, seed=seed)
    before = compare.similarity(a, b, measure)
    turned = scale * b @ rotation(b.shape[1], seed) + shift
    tolerance = 0.05 if measure in LOOSE else 2e-3 if measure == "neighbours" else 1e-4
    assert compare.similarity(a, turned, measure) == pytest.approx(before, abs=tolerance)


@pytest.mark.parametrize("measure", ["cca", "svcca_20"])
def test_cca_is_unchanged_by_any_invertible_map(measure: str) -> None:
    a, b = related()
    mixed = b @ (torch.randn(b.shape[1], b.shape[1]) + 3 * torch.eye(b.shape[1]))
    assert compare.similarity(a, mixed, measure) == pytest.approx(compare.similarity(a, b, measure), abs=1e-6)


@pytest.mark.parametrize("measure", REAL)
def test_whitened_measures_are_unchanged_by_any_invertible_map(measure: str) -> None:
    a, b = related()
    mixed = b @ (torch.randn(b.shape[1], b.shape[1]) + 3 * torch.eye(b.shape[1]))
    wanted = compare.similarity(a, b, measure, whiten=True)
    if measure in ("svcca_20", "svcca", "svcca_larger"):
        return  # fewer directions than there are: which ones come first is chance
    assert compare.similarity(a, mixed, measure, whiten=True) == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("measure", SCALARS)
def test_whitened_scalars_say_nothing(measure: str) -> None:
    a, _ = related(widths=(12, 12))
    other = torch.randn(600, 12) * torch.logspace(-2, 1, 12)
    assert compare.similarity(a, other, measure) < 0.8
    assert compare.similarity(a, other, measure, whiten=True) > 0.9


@pytest.mark.parametrize("measure", REAL)
def test_related_above_unrelated(measure: str) -> None:
    a, b = related(rows=1000)
    if measure == "overlap":  # sees only close relatives: which rows are new is lost with much of one's own
        b = a @ torch.ones(12, 12).tril() + torch.randn(a.shape, generator=torch.Generator().manual_seed(1)) / 5
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert compare.similarity(a, b, measure) > compare.similarity(a, b[order], measure) + 0.02


@pytest.mark.parametrize("measure", compare.measures())
def test_never_above_one(measure: str) -> None:
    for seed in range(3):
        a, b = related(rows=80, seed=seed)
        assert compare.similarity(a, b, measure) <= 1
        assert compare.similarity(a, a * 3 + 1, measure) <= 1


@pytest.mark.parametrize("measure", compare.measures())
def test_pieces_do_not_matter(measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = related(rows=517)
    wanted = compare.similarity(a, b, measure)
    monkeypatch.setattr(representations, "_BLOCK", 37)
    assert compare.similarity(a, b, measure) == pytest.approx(wanted, abs=1e-5)


def test_both_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = related()
    passes = []
    plain = BareRows.blocks

    def counted(self: BareRows, size: int, *, first: int = 0):  # type: ignore[no-untyped-def]
        number = len(passes)
        passes.append(0)
        for block in plain(self, size, first=first):
            passes[number] += len(block.rows)
            yield block

    monkeypatch.setattr(representations, "_BLOCK", 50)
    monkeypatch.setattr(BareRows, "blocks", counted)
    compare.similarity(a, b, "cka_debiased")
    assert sorted(passes) == [50, 50, 600, 600]  # beside the first piece, which says where the rows lie


def test_far_from_the_origin_nothing_cancels() -> None:
    a, b = related()
    assert compare.similarity(a + 3e4, b, "cka") == pytest.approx(compare.similarity(a, b, "cka"), abs=1e-3)


@pytest.mark.parametrize("measure", [name for name in REAL if name not in ("neighbours", "codes")])
def test_constant_columns_say_nothing(measure: str) -> None:
    a, b = related()
    wider = torch.cat([b, torch.full((len(b), 3), 7.0)], dim=1)
    assert compare.similarity(a, wider, measure) == pytest.approx(compare.similarity(a, b, measure), abs=1e-3)


@pytest.mark.parametrize("measure", compare.measures())
def test_rows_that_are_all_the_same_are_refused(measure: str) -> None:
    a, _ = related()
    with pytest.raises((ActivationError, ShapeError), match=r"same"):
        compare.similarity(a, torch.ones(len(a), 4), measure)


@pytest.mark.parametrize("measure", ["cca", "svcca", "pwcca"])
def test_fewer_rows_than_columns_are_refused_where_all_would_be_one(measure: str) -> None:
    a, b = torch.randn(20, 15), torch.randn(20, 15)
    with pytest.raises(ShapeError, match="need more than"):
        compare.similarity(a, b, measure)
    with pytest.raises(ShapeError, match="Whitening needs more rows"):
        compare.similarity(torch.randn(10, 15), torch.randn(10, 15), "cka", whiten=True)
    with pytest.raises(ShapeError, match="Whitening needs more rows"):
        compare.similarity(torch.randn(10, 15), torch.randn(10, 15), "overlap")


def test_what_is_no_number_is_no_similarity() -> None:
    """Most rows the same: no kernel, no order of distances, and no answer that looks like one."""
    a, b = related()
    same = a.clone()
    same[: 3 * len(a) // 4] = a[0]
    with pytest.raises(ShapeError, match="median of their distances"):
        compare.similarity(same, b, "cka_rbf")
    with pytest.raises(ShapeError, match="as far from each other"):
        compare.similarity(torch.eye(30), torch.eye(30), "rsa")
    assert compare.similarity(torch.eye(30), torch.eye(30), "codes") == 1
    for count in (4, 6, 8):
        few = torch.randn(count, 40)
        assert compare.similarity(few, few, "codes") == pytest.approx(1)


def test_bad_input() -> None:
    a, b = related()
    with pytest.raises(OptionError, match="Did you mean 'cka'"):
        compare.similarity(a, b, "ckaa")
    with pytest.raises(OptionError, match="whiten"):
        compare.similarity(a, b, "cka", whiten="yes")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="600 rows and 599"):
        compare.similarity(a, b[:-1])
    with pytest.raises(ShapeError, match="rows_b must be a matrix"):
        compare.similarity(a, "rows")
    with pytest.raises(ActivationError, match="NaN"):
        compare.similarity(a, b.where(b < 8, torch.nan))
    with pytest.raises(ActivationError, match="must have rows"):
        compare.similarity(a[:0], b[:0])
    for measure in compare.measures():
        if measure not in SCALARS:
            with pytest.raises((ShapeError, ActivationError)):
                compare.similarity(a[:1], b[:1], measure)


def test_every_measure_says_what_it_is() -> None:
    """Formula, invariances and source."""
    for name in compare.measures():
        said = compare.describe(name)
        assert "nchanged by" in said, name
        assert "Source:" in said, name


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """The same rows of two places, in memory and in a store."""
    model = itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())
    corpus = itda.Corpus.from_texts([f"{line} {number}" for number in range(3) for line in tiny.KINGS])
    sites = ["resid_post.0", "resid_post.2"]
    memory = itda.capture(model, corpus, sites, tokens=2_000, progress=False)
    stored = itda.capture(model, corpus, sites, tokens=2_000, store=tmp_path_factory.mktemp("s") / "s", progress=False)
    return [memory[site] for site in sites], [stored[site] for site in sites], model, corpus


@pytest.mark.parametrize("measure", ["cka", "overlap", "neighbours", "svcca"])
def test_rows_in_a_store_are_those_in_memory(captured, measure: str) -> None:
    memory, stored, _, _ = captured
    wanted = compare.similarity(*memory, measure)
    assert compare.similarity(*stored, measure) == pytest.approx(wanted, abs=1e-6)
    assert compare.similarity(memory[0], stored[1], measure) == pytest.approx(wanted, abs=1e-6)


def test_rows_of_other_places_are_refused(captured) -> None:
    memory, _, model, corpus = captured
    order = torch.randperm(len(memory[1]))
    shuffled = memory[1].select(order)
    other = itda.capture(model, corpus, "resid_post.2", tokens=2_000, seed=1, progress=False)
    elsewhere = itda.Corpus.from_texts([f"another {line} {number}" for number in range(3) for line in tiny.KINGS])
    apart = itda.capture(model, elsewhere, "resid_post.2", tokens=2_000, progress=False)
    for rows in (shuffled, other, apart):
        with pytest.raises(MismatchError, match="not of the same place"):
            compare.similarity(memory[0], rows, "cka")
    found = compare.similarity(memory[0], shuffled, "cka", check_places=False)
    assert found == pytest.approx(compare.similarity(memory[0].rows, shuffled.rows, "cka"))


def test_neighbours_of_few_rows_are_no_answer() -> None:
    with pytest.raises(ShapeError, match="at least 22"):
        compare.similarity(torch.randn(21, 30), torch.randn(21, 30), "neighbours")
    assert compare.similarity(torch.randn(22, 30), torch.randn(22, 30), "neighbours") < 0.8


def test_pwcca_is_unchanged_by_any_map_of_the_second() -> None:
    a, b = related()
    mixed = b @ torch.randn(b.shape[1], b.shape[1], dtype=b.dtype)
    assert compare.similarity(a, mixed, "pwcca") == pytest.approx(compare.similarity(a, b, "pwcca"), abs=1e-5)


def test_pieces_of_any_sizes_are_the_same_rows(monkeypatch):
    """As those of a store, which end with its shards."""
    both, read = related(4000), BareRows.blocks
    expected = {measure: compare.similarity(*both, measure) for measure in ("cka", "cca", "regression")}
    for width in (12, 9):
        monkeypatch.setattr(
            BareRows, "blocks",
            lambda self, size, first=0, width=width: read(self, 177 if self.width == width else size, first=first),
        )  # fmt: skip
        for measure, value in expected.items():
            assert compare.similarity(*both, measure) == pytest.approx(value, abs=1e-9)

"""Figures are made of what is there, and written or refused."""

import numpy as np
import pytest

import itda
from itda.compare import LayerMatrix, ModelMatrix
from itda.errors import MissingExtraError, OptionError, OutputError
from itda.steer import Point, Sweep
from itda.view import figures
from itda.view.preparing import prepare
from support.pages import bare_dictionary
from support.runs import training_run

pytest.importorskip("matplotlib")


def matrix(count=6):
    values = np.random.default_rng(0).random((count, count))
    values[1, 2] = np.nan
    half = count // 2
    return LayerMatrix(
        measure="cka", models=("first",) * half + ("second",) * half, values=values,
        sites=tuple(f"resid_post.{index}" for index in range(half)) * 2,
    )  # fmt: skip


def test_a_heatmap_shows_every_value_and_name():
    figure = figures.layer_heatmap(matrix())
    axes = figure.axes[0]
    assert np.array_equal(axes.images[0].get_array().filled(np.nan), matrix().values, equal_nan=True)
    assert {text.get_text() for text in axes.texts} == {"first", "second"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"] * 2


def test_a_sweep_shows_every_point_and_frames_one():
    points = tuple(
        Point(site, strength, effect, (0.0, 1.0), 0.1, 2.0, 20 + cost)
        for site, strength, effect, cost in (("a", 0.1, 1, 0), ("a", 0.4, 3, 1), ("b", 0.1, 2, 0.5), ("b", 0.4, 9, 80))
    )
    effects, costs = figures.sweep(Sweep("add", 20.0, 1.25, points), theme="dark").axes[:2]
    assert np.array_equal(effects.images[0].get_array(), [[1, 3], [2, 9]])
    assert np.allclose(costs.images[0].get_array(), [[1, 1.05], [1.025, 5]])
    assert [label.get_text() for label in effects.get_yticklabels()] == ["a", "b"]
    frame = effects.patches[-1]
    assert (frame.get_x(), frame.get_y()) == (0.5, -0.5), "the largest effect at a fair cost"


def test_curves_of_a_run():
    layers, births, atoms = figures.run_curves(training_run()).axes
    assert np.allclose([line.get_ydata() for line in layers.lines], [[0.2, 0.6, 1], [0, 0.5, 1]])
    assert [bar.get_height() for bar in births.patches] == [1, 1, 2]
    assert np.allclose([line.get_ydata() for line in atoms.lines], [[0.7, 0.8, 0.9], [0.5, 0.8, 0.9], [0.5, 0.55, 0.8]])
    with pytest.raises(OptionError, match="overlap"):
        figures.run_curves(training_run(), "cka")


@pytest.mark.parametrize("ending", [".svg", ".png", ".pdf"])
def test_it_is_written(tmp_path, ending):
    path = figures.save(figures.layer_heatmap(matrix()), tmp_path / "new" / f"layers{ending}")
    assert path.stat().st_size > 1000


def test_what_cannot_be_written_says_so(tmp_path):
    with pytest.raises(OptionError, match="svg"):
        figures.save(figures.layer_heatmap(matrix()), tmp_path / "layers.docx")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        figures.save(figures.layer_heatmap(matrix()), tmp_path / "file" / "layers.svg")


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="plots"):
        figures.layer_heatmap(matrix())


def test_what_pages_show_can_be_drawn(prepared, embedded):
    records = prepared.records
    shares = records.counts[records.counts > 0]
    density = figures.density(records).axes[0]
    assert sum(bar.get_height() for bar in density.patches) == len(shares)
    carried = figures.use(records).axes[0].lines[0].get_ydata()
    assert carried[-1] == pytest.approx(1)
    assert np.all(np.diff(carried) >= 0)
    sizes = figures.coefficients(records, 3).axes[0]
    assert sum(bar.get_height() for bar in sizes.patches) == records.counts[3]
    points = figures.atom_map(records).axes[0].collections[0].get_offsets()
    assert np.allclose(points, records.places)
    explained = itda.explain(prepared.dictionary, embedded, "costs $5 and $6")
    bars = figures.explanation(explained).axes[0]
    assert [bar.get_height() for bar in bars.patches] == [token.unexplained or 0 for token in explained.tokens]


def test_fidelity_beside_the_token_mean(prepared, embedded):
    report = itda.evaluate(prepared.dictionary, embedded, itda.Corpus.embedded(), tokens=500, progress=False)
    axes = figures.fidelity({"one": report, "two": report}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [report.fvu, report.fvu]
    assert axes.lines[0].get_xdata()[0] == report.baselines["token mean"].fvu
    assert sum(bar.get_height() for bar in figures.density(report).axes[0].patches) == len(prepared.dictionary)
    with pytest.raises(OptionError, match="at least one report"):
        figures.fidelity({})


def test_light_and_dark_are_different_grounds(prepared):
    light, dark = (figures.use(prepared.records, theme=theme) for theme in ("light", "dark"))
    assert sum(light.get_facecolor()[:3]) > 2.9
    assert sum(dark.get_facecolor()[:3]) < 0.5
    assert light.axes[0].lines[0].get_color() != dark.axes[0].lines[0].get_color()
    with pytest.raises(OptionError, match="theme"):
        figures.use(prepared.records, theme="pink")
    with pytest.raises(OptionError, match="attn_heads"):
        figures.heads(prepared.records, 0)
    with pytest.raises(OptionError, match="without a text"):
        figures.density(prepare(bare_dictionary(), progress=False))


def test_models_side_by_side():
    values = np.array([[1.0, 0.2], [0.2, 1.0]])
    matrix = ModelMatrix(
        models=("runs/a", "runs/b"), architectures=("x", "x"), atoms=(3, 3), values=values, jaccard=values,
        expected=values, untrained=None, facts={},
    )  # fmt: skip
    axes = figures.model_heatmap(matrix).axes[0]
    assert np.array_equal(axes.images[0].get_array(), values)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]

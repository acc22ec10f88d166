"""Figures are made of what is there, and written or refused."""

import numpy as np
import pytest

from itda.compare import LayerMatrix
from itda.errors import MissingExtraError, OptionError, OutputError
from itda.view import figures
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

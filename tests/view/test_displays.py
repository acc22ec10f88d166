"""What notebooks show of results: markup in which every text is text."""

import re

import itda
from itda.html import LONGEST, element, join, table, visible
from support import tiny
from support.pages import bare_dictionary
from support.runs import training_run


def test_markup_is_escaped_once():
    made = element("a", "<b>", element("i", "&"), href='"x"', class_="k", data_atom=3, hidden=True, title=None)
    assert made == '<a href="&#34;x&#34;" class="k" data-atom="3" hidden>&lt;b&gt;<i>&amp;</i></a>'
    assert join(["<", element("br")], " & ") == "&lt; &amp; <br>"
    assert table("<t>", ("a",), [("<x>",)]).count("&lt;") == 2
    assert visible("a\u202eb\n") == "a·b↵"
    assert len(visible("x" * 10**5)) == LONGEST + 1


def test_dictionaries_explanations_and_reports(prepared, embedded):
    dictionary = prepared.dictionary
    shown = dictionary._repr_html_()
    assert "128 atoms of width 128" in shown
    most = int(dictionary.usage_counts.argmax())
    assert f">{most}</td>" in shown
    explained = itda.explain(dictionary, embedded, "Return <u>x</u>")._repr_html_()
    assert "&lt;" in explained
    assert "<u" not in explained
    assert "not decomposed (special)" in explained
    report = itda.evaluate(dictionary, embedded, itda.Corpus.embedded(), tokens=500, progress=False)
    assert f"{report.fvu:.4f}" in report._repr_html_()
    assert "token mean" in report._repr_html_()


def test_mixtures_learned_atoms_and_bare_arrays(model):
    corpus = itda.Corpus.from_texts(tiny.KINGS)
    for method, expected in (("mixture", r"\d+% "), ("learned", "e.g. ")):
        dictionary = itda.build(model, corpus, atoms=12, steps=2, method=method, progress=False)
        assert re.search(expected, itda.explain(dictionary, model, "the king")._repr_html_())
        assert dictionary._repr_html_()
    assert "row " in bare_dictionary()._repr_html_()


def test_other_results_are_their_tables():
    shown = training_run()._repr_html_()
    assert shown.startswith("<pre")
    assert "atoms of the last one" in shown

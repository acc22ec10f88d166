"""What reads the same in a terminal, a notebook and at a prompt."""

import importlib
import io
import pkgutil

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

import itda
from itda.shown import Quote, Shown
from support import tiny


def test_at_a_prompt_results_are_what_they_print():
    for module in pkgutil.walk_packages(itda.__path__, "itda."):
        if not module.name.startswith(("itda.cli", "itda.view", "itda.adapters")):
            importlib.import_module(module.name)
    kinds = Shown.__subclasses__()
    assert len(kinds) > 15
    assert all(kind.__repr__ is Shown.__repr__ for kind in kinds)


def drawn(quote: Quote, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(quote)
    return console.file.getvalue().rstrip("\n")


@pytest.mark.parametrize("width", [12, 20, 40, 79])
def test_a_quote_keeps_its_token(width):
    text = f"{'once upon ' * 9}a [time]{' there was' * 9}"
    for quote in (Quote.of(text), Quote("once upon " * 9 + "a ", "time", " there was" * 9)):
        line = drawn(quote, width)
        assert "[time]" in line
        assert cell_len(line) <= width
        assert line.startswith("…")
        assert line.endswith("…")


def test_a_quote_that_fits_is_whole():
    assert drawn(Quote.of("once upon a [time] there"), 24) == "once upon a [time] there"
    assert drawn(Quote.of("once upon a [time] there"), 23) == "once upon a [time] the…"
    assert drawn(Quote.of("row 17"), 24) == "row 17"


def test_of_a_mixture_the_largest_share_is_kept():
    assert drawn(Quote.of("60% once upon a [time] | 40% there [was] a"), 24) == "60% once upon a [time] …"


def test_wide_characters_have_two_columns():
    line = drawn(Quote("時間" * 20, "時", "間" * 20, head=Text("+1.0  ")), 30)
    assert line.startswith("+1.0  …")
    assert "[時]" in line
    assert cell_len(line) <= 30


def test_what_holds_arrays_is_named_on_one_line(model):
    dictionary = itda.build(model, itda.Corpus.from_texts(tiny.KINGS), site="resid_post.1", atoms=12, progress=False)
    rows = itda.capture(model, itda.Corpus.from_texts(tiny.KINGS), "resid_post.1", progress=False)
    codes = dictionary.encode(rows.rows)
    vector = itda.steer.SteeringVector.from_atoms(dictionary, {3: 2.0})
    shown = {
        "rows, ": codes, "of no rows": codes[:0], " at resid_post.1 of": itda.encode(
            dictionary, model, itda.Corpus.from_texts(tiny.KINGS), progress=False
        ),
        "12 rows of ": dictionary.sources, "bare array": itda.build_from_activations(
            rows.rows, atoms=12, progress=False
        ).sources,
        "tokens of width 16": dictionary.token_means, "length 2 at resid_post.1": vector,
        "[": dictionary.find("king")[0],
    }  # fmt: skip
    for says, what in shown.items():
        assert says in repr(what)
        assert len(repr(what).splitlines()) == 1
        assert len(repr(what)) < 250

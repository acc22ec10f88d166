import json
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from itda import Corpus, build, build_from_activations, capture, explain, wrap
from itda.errors import CorpusError, MismatchError, OptionError
from support import tiny

TEXTS = tiny.KINGS


@pytest.fixture(scope="module")
def dictionary(model):
    return build(model, Corpus.from_texts(TEXTS), site="resid_post.1", atoms=48, progress=False)


def test_every_token_is_explained_by_its_own_code(model, dictionary):
    text = "a new queen ä🙂"
    found = explain(dictionary, model, text)
    rows = capture(model, Corpus.from_texts([text]), "resid_post.1", sinks="keep", progress=False)
    codes = dictionary.encode(rows)
    own = [token for token in found.tokens if token.left_out is None]
    assert len(own) == len(codes)
    for token, row, source in zip(own, range(len(codes)), rows.sources, strict=True):
        assert (token.char_start, token.char_end, token.token) == (source.char_start, source.char_end, source.token)
        assert token.unexplained == pytest.approx(float(codes.unexplained[row]), abs=1e-4)
        assert {piece.atom for piece in token.pieces} == set(codes.atoms[row].tolist()) - {-1}
        sizes = [abs(piece.coefficient) for piece in token.pieces]
        assert sizes == sorted(sizes, reverse=True)
        assert all(piece.source == dictionary.sources[piece.atom] for piece in token.pieces)
    assert found.tokens[0].left_out == "special"
    assert found.unexplained == pytest.approx(float(codes.unexplained.mean()), abs=1e-4)


def test_where_nothing_is_decomposed_nothing_is_called_explained(model, dictionary):
    found = explain(dictionary, model, "<s>")
    assert found.unexplained is None
    assert found.to_json()["unexplained"] is None
    assert "nothing decomposed" in str(found)
    assert "nothing decomposed" in found._repr_html_()


def test_json_and_print_say_the_same(model, dictionary):
    found = explain(dictionary, model, "queen")
    document = json.loads(json.dumps(found.to_json()))
    assert [token["token"] for token in document["tokens"]] == ["<s>", *"queen"]
    printed = str(found)
    for token in found.tokens[1:]:
        assert f"{token.pieces[0].coefficient:+.2f}" in printed
    assert "not decomposed (special)" in printed
    assert "48 atoms" in printed


def test_hostile_text_cannot_drive_the_terminal_or_the_picture(model, dictionary):
    found = explain(dictionary, model, "\x1b[31m<script>&\u202e[bold]")
    assert "\x1b" not in str(found)
    renamed = wrap(model.module, model.tokenizer, id="models/[/red] [bold]")
    assert "of models/[/red] [bold], 48 atoms" in str(explain(dictionary, renamed, "queen"))
    ElementTree.fromstring(found.to_svg())


def test_the_picture_fetches_nothing(model, dictionary):
    picture = explain(dictionary, model, "queen").to_svg()
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith("svg")
    assert "url(http" not in picture
    assert "@font-face" not in picture
    assert "queen" in "".join(root.itertext()).replace("\xa0", " ")


def test_a_long_text_is_read_in_windows(model, dictionary):
    text = "the old queen " * 20
    found = explain(dictionary, model, text)
    assert [token.char_start for token in found.tokens if token.left_out is None] == list(range(len(text)))


def test_fewer_steps_on_request(model, dictionary):
    found = explain(dictionary, model, "queen", steps=1)
    assert {len(token.pieces) for token in found.tokens[1:]} == {1}


def test_bare_arrays_need_a_site(model):
    rows = capture(model, Corpus.from_texts(TEXTS), "resid_post.1", progress=False).rows
    bare = build_from_activations(rows, atoms=30, progress=False)
    with pytest.raises(OptionError, match="site="):
        explain(bare, model, "queen")
    found = explain(bare, model, "queen", site="resid_post.1")
    assert found.tokens[1].pieces[0].source.text.startswith("row ")
    assert "row " in str(found)


def test_what_cannot_be_explained(model, dictionary):
    for text in ("", "  \n", None):
        with pytest.raises(CorpusError, match="not empty"):
            explain(dictionary, model, text)
    with pytest.raises(OptionError, match=r"itda\.Dictionary. Got str"):
        explain("runs/l2", model, "queen")
    assert "\ufffd" in [token.token for token in explain(dictionary, model, "bad \ud800 text").tokens]
    with pytest.raises(OptionError, match="leave site out"):
        explain(dictionary, model, "queen", site="resid_post.0")
    other = wrap(tiny.module("Llama", seed=1), tiny.tokenizer(), id="another")
    with pytest.raises(MismatchError, match="'another'"):
        explain(dictionary, other, "queen")
    assert explain(dictionary, other, "queen", check_model=False).tokens


def test_the_model_is_left_as_it_was(model, dictionary):
    model.module.train()
    explain(dictionary, model, "queen")
    assert all(module.training for module in model.module.modules())
    model.module.eval()
    assert torch.is_grad_enabled()

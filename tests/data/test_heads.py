import json

import pytest
import torch

from itda import Corpus, Dictionary, build, build_from_activations, explain
from itda.errors import OptionError
from support import tiny


@pytest.fixture(scope="module")
def dictionary(model):
    return build(model, Corpus.from_texts(tiny.KINGS), site="attn_heads.1", atoms=24, progress=False)


def test_an_atom_is_shared_out_among_heads(dictionary):
    shares = dictionary.head_shares
    assert shares.shape == (24, 4)
    assert torch.allclose(shares.sum(1), torch.ones(24))
    assert shares[7, 2] == pytest.approx(float(dictionary.atoms[7, 8:12].square().sum()))


def test_heads_are_said_wherever_an_atom_is(dictionary, model, tmp_path):
    best = int(dictionary.head_shares[0].argmax())
    assert dictionary.describe(0).startswith(f"head {best} ")
    assert len(dictionary.origin(0)["heads"]) == 4
    explained = explain(dictionary, model, "the good king")
    assert "head " in str(explained)
    pieces = [piece for token in explained.to_json()["tokens"] for piece in token["pieces"]]
    assert all(piece["heads"].startswith("head ") for piece in pieces)
    dictionary.save_pretrained(tmp_path / "d")
    assert torch.equal(Dictionary.from_pretrained(tmp_path / "d").head_shares, dictionary.head_shares)


def test_elsewhere_there_are_none(model):
    stream = build(model, Corpus.from_texts(tiny.KINGS), site="resid_post.1", atoms=24, progress=False)
    with pytest.raises(OptionError, match=r"attn_heads\.L"):
        _ = stream.head_shares
    assert not stream.describe(0).startswith("head")
    with pytest.raises(OptionError, match=r"attn_heads\.L"):
        _ = build_from_activations(torch.randn(50, 8), atoms=10, progress=False).head_shares


def test_a_number_of_heads_that_is_none_is_damage(dictionary):
    from itda.data.provenance import Provenance

    fields = json.loads(json.dumps(dictionary.provenance.to_dict()))
    assert Provenance.from_dict(fields).heads == 4
    with pytest.raises(TypeError, match="heads"):
        Provenance.from_dict({**fields, "heads": "four"})

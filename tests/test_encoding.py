import pytest
import torch

from itda import Corpus, Encoding, build, wrap
from itda import encode as encode_corpus
from itda.errors import FormatError, MismatchError
from support import tiny

TEXTS = tiny.KINGS


@pytest.fixture(scope="module")
def dictionary(model):
    return build(model, Corpus.from_texts(TEXTS), site="resid_post.1", atoms=48, window=32, progress=False)


def test_a_corpus_is_encoded_as_its_activations_are(model, dictionary):
    from itda import capture

    found = encode_corpus(dictionary, model, Corpus.from_texts(TEXTS), progress=False)
    rows = capture(model, Corpus.from_texts(TEXTS), "resid_post.1", window=32, progress=False)
    codes = dictionary.encode(rows)
    assert torch.equal(found.codes.atoms, codes.atoms)
    assert list(found.sources) == list(rows.sources)
    assert found.dictionary == dictionary.fingerprint
    assert len(encode_corpus(dictionary, model, Corpus.from_texts(TEXTS), tokens=100, steps=2, progress=False)) == 100


def test_codes_are_saved_whole(model, dictionary, tmp_path):
    found = encode_corpus(dictionary, model, Corpus.from_texts(TEXTS), tokens=100, progress=False)
    folder = found.save(tmp_path / "codes")
    again = Encoding.load(folder)
    assert again.codes.route == found.codes.route == "numba, int16 Gram matrix"
    for name in ("atoms", "coefficients", "unexplained", "cosine"):
        assert torch.equal(getattr(again.codes, name), getattr(found.codes, name))
    assert list(again.sources) == list(found.sources)
    assert (again.dictionary, again.coding, again.provenance.site) == (found.dictionary, found.coding, "resid_post.1")
    (folder / "codes.safetensors").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"codes\.safetensors is damaged"):
        Encoding.load(folder)


def test_sinks_are_those_of_the_dictionary(model):
    """The same threshold for every text, so that encode, explain and evaluate agree on what a sink is."""
    module = tiny.module("Llama")
    with torch.no_grad():
        module.model.embed_tokens.weight[tiny.tokenizer()("n")["input_ids"][1]] *= 1000
    sinking = wrap(module, tiny.tokenizer())
    own = build(sinking, Corpus.from_texts(TEXTS), site="resid_pre.0", atoms=20, progress=False)
    found = encode_corpus(own, sinking, Corpus.from_texts(["nnnnnan"]), progress=False)
    assert [source.token for source in found.sources] == ["a"]
    assert found.provenance.capture["sink_norm"] == own.provenance.capture["sink_norm"]
    other_texts = Corpus.from_texts(TEXTS)
    looser = encode_corpus(own, sinking, other_texts, sink_ratio=10**6, progress=False)
    assert len(looser) > len(encode_corpus(own, sinking, other_texts, progress=False))


def test_another_model_is_refused(dictionary):
    other = wrap(tiny.module("Llama", seed=1), tiny.tokenizer(), id="another")
    with pytest.raises(MismatchError, match="'another'"):
        encode_corpus(dictionary, other, Corpus.from_texts(TEXTS))

import pytest
import torch

import itda
from itda.adapters import transformer_lens
from itda.errors import ModelError, SiteError
from itda.steer import SteeringVector

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def lens(hooked, gpt2):
    hooked.tokenizer = gpt2.tokenizer  # as it was: without the begin token that TransformerLens adds
    return transformer_lens.wrap(hooked, id="gpt2 in TransformerLens")


@pytest.mark.parametrize("kind", ["resid_pre", "resid_post", "attn_out", "attn_heads", "mlp_out", "mlp_neurons"])
def test_places_are_those_of_the_same_model_in_transformers(lens, gpt2, kind):
    ids = gpt2.tokenizer("The city of London was founded by", return_tensors="pt")
    inputs = dict(ids)
    ours, theirs = (one.read(inputs, [one.site(f"{kind}.1")])[f"{kind}.1"] for one in (gpt2, lens))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert lens.site(f"{kind}.1").width == gpt2.site(f"{kind}.1").width == ours.shape[2]


def test_everything_is_done_with_it_that_is_done_with_any_model(lens, gpt2, stories):
    train, held_out = stories.split(held_out=0.1)
    options = {"atoms": 64, "tokens": 2000, "progress": False}
    dictionary = itda.build(lens, train, site="blocks.2.hook_resid_post", **options)
    twin = itda.build(gpt2, train, site="resid_post.2", **options)
    assert dictionary.site == twin.site
    assert torch.allclose(dictionary.mean, twin.mean, atol=1e-3)
    ours, theirs = (
        itda.evaluate(of, model, held_out, tokens=400, progress=False)
        for of, model in ((dictionary, lens), (twin, gpt2))
    )
    assert ours.loss == pytest.approx(theirs.loss, abs=1e-3)
    assert ours.fvu == pytest.approx(theirs.fvu, rel=0.1)
    assert "The" in str(itda.explain(dictionary, lens, "The city of London"))
    ids = torch.arange(10)[None]
    before = lens.module(input_ids=ids).logits
    vector = SteeringVector.fit(lens, [("good", "bad"), ("old", "new")], sites=["resid_post.1"], progress=False)
    with vector.apply(lens, strength=1.0):
        with pytest.raises(SiteError, match=r"Call model\.module"):
            lens.module.hooked(ids)
        assert not torch.allclose(lens.module(input_ids=ids).logits, before)
    assert torch.equal(lens.module.hooked(ids), before)
    assert not lens.record.is_same_model(gpt2.record)


def test_what_is_not_there(lens, hooked):
    with pytest.raises(SiteError, match=r"resid_post.*at the layers 0 to .*hooks of TransformerLens"):
        lens.site("resid_post.99")
    assert lens.site("blocks.1.hook_resid_mid").width is None
    with pytest.raises(ModelError, match="needs a HookedTransformer"):
        transformer_lens.wrap("gpt2")

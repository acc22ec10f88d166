"""Attributions add up to what the tokens do together, and vectors from them point where the tokens do."""

import pytest
import torch

import itda
from itda import steer
from itda.errors import CorpusError, ModelError, OptionError
from itda.models import tokenizing
from itda.models.hooks import editing
from itda.models.losses import predict
from itda.steer import attribution
from itda.steer.reading import read_texts
from support import tiny

SITE = "resid_post.1"
EXAMPLES = [("the good king is ", "x", "y"), ("an old queen was ", "z", "a"), ("number seven ", "8", "9")]


@pytest.fixture(scope="module", params=["GPT-2", "Llama"])
def model(request):
    return itda.wrap(tiny.module(request.param), tiny.tokenizer())


def contrast_with_mean_embeddings(model, example):
    """log p(target) - log p(opposite) where the prompt's own embeddings are the mean one."""
    table = model.module.get_input_embeddings()
    name = next(name for name, module in model.module.named_modules() if module is table)
    found = []
    for side in example[1:]:
        part = tokenizing.windows(model, [example[0] + side], length=48)[0][0]
        inputs = tokenizing.batch(model, [part], length=None)
        count = len(part) - 1
        plain = torch.from_numpy(~part.special[:count])

        def change(values, count=count, plain=plain):
            changed = values.clone()
            changed[:, :count][:, plain] = table.weight.mean(0)
            return changed

        with editing(model.module, model.site(name), change, inputs):
            found.append(predict(model, inputs)[0, count - 1, int(part.token_ids[count])])
    return float(found[0] - found[1])


def test_attributions_add_up(model):
    for example in EXAMPLES:
        given = steer.Contrast(*example)
        found = attribution.attribute(model, given, steps=64)
        text = "".join(found.tokens)
        assert text == example[0]
        difference = float(steer.contrast(model, [given])) - contrast_with_mean_embeddings(model, example)
        assert float(found.scores.sum()) == pytest.approx(difference, abs=2e-3 + 0.02 * abs(difference))
        assert all(parameter.grad is None for parameter in model.module.parameters())


def test_a_vector_is_what_the_tokens_bring_about(model):
    vector = attribution.fit(model, EXAMPLES[:1], [SITE], top=2, combine="mean", progress=False)
    example = steer.Contrast(*EXAMPLES[0])
    scores = attribution.attribute(model, example).scores
    part = tokenizing.windows(model, [example.prompt], length=48)[0][0]
    inputs = tokenizing.batch(model, [part], length=None)
    table = model.module.get_input_embeddings()
    name = next(name for name, module in model.module.named_modules() if module is table)
    last = []
    for side in (scores, -scores):
        order = [place for place in torch.argsort(side, descending=True)[:2].tolist() if side[place] > 0]

        def change(values, order=order):
            changed = values.clone()
            changed[:, order] = table.weight.mean(0)
            return changed

        with editing(model.module, model.site(name), change, inputs):
            last.append(model.read(inputs, [model.site(SITE)])[SITE][0, -1])
    expected = last[1] - last[0]
    assert float(torch.nn.functional.cosine_similarity(vector.directions[SITE], expected, dim=0)) > 0.9999
    both = attribution.fit(model, EXAMPLES, [SITE, "resid_post.0"], progress=False)
    assert both.sites == (SITE, "resid_post.0")
    assert both.directions[SITE].norm() == pytest.approx(1)


def test_traits_from_a_few_pairs_are_means_over_tokens(model):
    pairs = [("good king", "bad"), ("a good old queen", "bad queen")]
    vector = steer.SteeringVector.fit(model, pairs, [SITE], read="tokens", progress=False)

    rows = [
        read_texts(model, [pair[side] for pair in pairs], [SITE], read="tokens", progress=False).rows[SITE]
        for side in (0, 1)
    ]
    expected = rows[0].mean(0) - rows[1].mean(0)
    assert torch.allclose(vector.directions[SITE], expected / expected.norm(), atol=1e-6)
    with pytest.raises(OptionError, match="one row"):
        steer.SteeringVector.fit(model, pairs, [SITE], read="tokens", method="pca", progress=False)


def test_bad_input_is_refused(model, minilm):
    with pytest.raises(OptionError, match="at least one"):
        attribution.fit(model, [])
    with pytest.raises(OptionError, match="combine"):
        attribution.fit(model, EXAMPLES, combine="sum")
    with pytest.raises(OptionError, match="top"):
        attribution.fit(model, EXAMPLES, top=0)
    with pytest.raises(CorpusError):
        attribution.fit(model, [("", "a", "b")], [SITE], progress=False)
    with pytest.raises(CorpusError, match="no token that is predicted"):
        attribution.attribute(model, steer.Contrast("the ", "", "b"))
    with pytest.raises(ModelError, match="predicts no next token"):
        attribution.fit(minilm, EXAMPLES)

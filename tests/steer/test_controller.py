"""A controller tells prompts apart, and puts the weight where steering does what it is for."""

import pytest
import torch

import itda
from itda import steer
from itda.errors import CorpusError, FormatError, MismatchError, OptionError
from itda.models import tokenizing
from itda.models.losses import predict
from itda.steer import controller
from support import tiny

SITES = ["resid_post.0", "resid_post.2"]
CONTRASTS = [(f"{number} old queen", "k", "z") for number in range(10)]
OTHERS = [f"{number} {number + 1}!" for number in range(14)]


@pytest.fixture(scope="module")
def vector(gpt):
    """At the last site it makes "k" likelier than "z"; at the first it does nothing to that."""
    ids = [gpt.tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "kz"]
    table = gpt.module.get_output_embeddings().weight.detach()
    towards = table[ids[0]] - table[ids[1]]
    return steer.SteeringVector(
        directions={SITES[0]: torch.zeros(16), SITES[1]: towards / towards.norm()},
        norms=dict.fromkeys(SITES, 4.0), model=gpt.record,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(gpt, vector):
    return controller.fit(gpt, vector, CONTRASTS, OTHERS, steps=120, hidden=8, progress=False)


def test_strengths_tell_prompts_apart_and_weights_find_the_layer(gpt, trained):
    own = trained.read(gpt, [f"{number} old queen" for number in range(20, 30)], progress=False)
    others = trained.read(gpt, [f"{number} {number + 1}!" for number in range(30, 40)], progress=False)
    assert float(own.strengths.min()) > 0.5 > float(others.strengths.max())
    assert torch.allclose(own.weights.mean(1), torch.ones(10))
    assert bool((own.weights[:, 1] > 1.5).all()), "all that steering does, it does at the second site"


def test_a_controller_that_was_not_trained_steers_alike_everywhere(gpt, vector):
    begun = controller.fit(gpt, vector, CONTRASTS, OTHERS, steps=1, rate=1e-9, progress=False)
    found = begun.read(gpt, ["the good king"], progress=False)
    assert torch.allclose(found.strengths, torch.full((1,), 0.5), atol=1e-5)
    assert torch.allclose(found.weights, torch.ones(1, 2), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_text_is_steered_by_its_own_strength_and_weights(gpt, vector, trained, side):
    texts = ["old queen 3", "3 4!", "old queen 3 and many more"]
    parts = [tokenizing.windows(gpt, [text], length=48)[0][0] for text in texts]
    inputs = tokenizing.batch(gpt, parts, length=None, side=side)
    told = trained.read(gpt, texts, progress=False)
    with vector.apply(gpt, 1.5, when=trained):
        steered = predict(gpt, inputs)
    for row, part in enumerate(parts):
        alone = tokenizing.batch(gpt, [part], length=None)
        amounts = told.strengths[row] * told.weights[row]
        parts_of = [vector.at(name) * float(amount) for name, amount in zip(SITES, amounts, strict=True)]
        with parts_of[0].apply(gpt, 1.5), parts_of[1].apply(gpt, 1.5):
            expected = predict(gpt, alone)[0]
        own = steered[row][inputs["attention_mask"][row].bool()]
        assert torch.allclose(own, expected, atol=1e-4)


def test_generation_keeps_what_was_decided_for_the_prompt(gpt, vector, trained):
    prompts = ["old queen 5", "5 6!"]
    found = steer.generate(gpt, prompts, vector, strength=6.0, when=trained, max_new_tokens=5)
    for one in found:
        alone = steer.generate(gpt, one.prompt, vector, strength=6.0, when=trained, max_new_tokens=5)
        whole = steer.generate(
            gpt, one.prompt, vector, strength=6.0, when=trained, max_new_tokens=5, use_cache=False
        )  # fmt: skip
        assert one.text == alone[0].text == whole[0].text


@pytest.mark.parametrize("beams", [1, 3])
def test_how_a_text_is_generated_does_not_change_what_is_decided(gpt, vector, trained, beams):
    texts = ["old queen 3 and many more", "3 4!"]
    parts = [tokenizing.windows(gpt, [text], length=48)[0][0] for text in texts]
    inputs = tokenizing.batch(gpt, parts, length=None, side="left")
    how = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "pad_token_id": 0, "eos_token_id": 299}
    found = []
    with vector.apply(gpt, 6.0, when=trained):
        for one in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
            found.append(gpt.module.generate(**inputs, **how, **one))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_controller_in_a_file_is_the_same(gpt, trained, tmp_path):
    path = trained.save(tmp_path / "controller.safetensors")
    again = controller.Controller.load(path)
    told = [one.read(gpt, ["old queen 3"], progress=False) for one in (trained, again)]
    assert torch.equal(told[0].strengths, told[1].strengths)
    assert torch.equal(told[0].weights, told[1].weights)
    assert again.facts == trained.facts
    assert path.read_bytes() == trained.save(tmp_path / "again.safetensors").read_bytes()
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with pytest.raises(FormatError):
        controller.Controller.load(path)
    with pytest.raises(FormatError, match=r"holds 'itda\.controller'"):
        steer.SteeringVector.load(tmp_path / "again.safetensors")


def test_bad_input_is_refused(gpt, vector, trained):
    other = itda.wrap(tiny.module("GPT-2", seed=1), tiny.tokenizer())
    with pytest.raises(MismatchError, match="This controller"):
        trained.read(other, ["old queen"], progress=False)
    with pytest.raises(MismatchError):
        controller.fit(other, vector, CONTRASTS, OTHERS, progress=False)
    foreign = steer.SteeringVector.from_direction(other, SITES[0], torch.ones(16), norm=1.0)
    with pytest.raises(MismatchError, match="This controller"):
        steer.generate(other, "old queen", foreign, when=trained)
    elsewhere = steer.SteeringVector.from_direction(gpt, "resid_post.1", torch.ones(16), norm=1.0)
    with pytest.raises(MismatchError, match="steered at"), elsewhere.apply(gpt, when=trained):
        pass
    with pytest.raises(OptionError, match="three texts"):
        controller.fit(gpt, vector, [("a", "b")], OTHERS, progress=False)
    with pytest.raises(CorpusError, match="list of texts"):
        controller.fit(gpt, vector, CONTRASTS, "one", progress=False)
    with pytest.raises(CorpusError, match="leave alone"):
        controller.fit(gpt, vector, CONTRASTS, [], progress=False)
    with pytest.raises(OptionError, match="at least one"):
        controller.fit(gpt, vector, CONTRASTS, OTHERS, reads=[], progress=False)
    with pytest.raises(OptionError, match="rate"):
        controller.fit(gpt, vector, CONTRASTS, OTHERS, rate=-1, progress=False)

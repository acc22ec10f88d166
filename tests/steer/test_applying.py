"""A steered model does what the formula says, at the tokens that were meant, and is left as it was found."""

import pytest
import torch

import itda
from itda import steer
from itda.errors import MismatchError, OptionError, SiteError
from itda.models import tokenizing
from itda.steer.operators import OPERATORS
from support import tiny

SITE = "resid_post.1"
TEXTS = ["the good king", "a", "the old queen of number 7 and more", "bad king and queen"]
SELECTORS = ("all", "prompt", "generation", "last", slice(1, 5), slice(-3, None), 0, -1, [0, 2], steer.After(34))


@pytest.fixture(scope="module")
def gpt():
    return itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())


def vector_of(model, site=SITE, seed=0):
    direction = torch.randn(model.site(site).width, generator=torch.Generator().manual_seed(seed))
    return steer.SteeringVector.from_direction(model, site, direction, norm=1.0)


def logits_of(model, inputs):
    with torch.no_grad():
        return model.module(**inputs).logits


def inputs_of(model, texts, side="right"):
    parts = [tokenizing.windows(model, [text], length=48)[0][0] for text in texts]
    return tokenizing.batch(model, parts, length=None, side=side)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("tokens", ["all", "last", slice(1, 3), -2], ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["GPT-2", "Llama", "Gemma 2", "OPT"])
def test_a_padded_batch_is_each_text_by_itself(kind, side, tokens, op):
    model = itda.wrap(tiny.module(kind), tiny.tokenizer())
    vector = vector_of(model)
    inputs = inputs_of(model, TEXTS, side)
    with vector.apply(model, 0.7, op=op, tokens=tokens):
        batched = logits_of(model, inputs)
        for row, text in enumerate(TEXTS):
            alone = logits_of(model, inputs_of(model, [text]))[0]
            own = batched[row][inputs["attention_mask"][row].bool()]
            assert torch.allclose(own, alone, atol=1e-4), (row, float((own - alone).abs().max()))


@pytest.mark.parametrize("tokens", SELECTORS, ids=str)
def test_cached_generation_is_a_full_pass(gpt, tokens):
    vector = vector_of(gpt)
    inputs = inputs_of(gpt, TEXTS, "left")
    inputs.pop("position_ids", None)
    answers = []
    for cache in (True, False):
        with vector.apply(gpt, 0.7, tokens=tokens):
            answers.append(
                gpt.module.generate(
                    **inputs, max_new_tokens=8, do_sample=False, use_cache=cache, return_dict_in_generate=True,
                    output_logits=True, pad_token_id=0, eos_token_id=299,
                )
            )  # fmt: skip
    assert torch.equal(answers[0].sequences, answers[1].sequences)
    for cached, full in zip(answers[0].logits, answers[1].logits, strict=True):
        assert torch.allclose(cached, full, atol=1e-4)


def test_generated_tokens_are_steered_one_by_one(gpt):
    """Steering only what is generated changes nothing about the first of it, and something about the second."""
    inputs = inputs_of(gpt, ["the good king"])
    plain = gpt.module.generate(
        **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True, pad_token_id=0
    )
    with vector_of(gpt).apply(gpt, 5.0, tokens="generation"):
        steered = gpt.module.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            pad_token_id=0,
        )
    assert torch.equal(plain.logits[0], steered.logits[0])
    assert not torch.allclose(plain.logits[1], steered.logits[1], atol=1e-2)


@pytest.mark.parametrize("tokens", SELECTORS, ids=str)
def test_only_the_tokens_that_are_meant_are_changed(gpt, tokens):
    text = "the good king"
    inputs = inputs_of(gpt, [text])
    count = inputs["input_ids"].shape[1]
    places = list(range(count))
    marks = [place for place in places if int(inputs["input_ids"][0, place]) == 34]
    wanted = {
        "all": places, "prompt": places, "generation": [], "last": places[-1:],
    }.get(tokens if isinstance(tokens, str) else "")  # fmt: skip
    if wanted is None:
        if isinstance(tokens, steer.After):
            wanted = [place for place in places if marks and place > marks[0]]
        elif isinstance(tokens, slice):
            wanted = places[tokens]
        else:
            wanted = [places[one] for one in (tokens if isinstance(tokens, list) else [tokens])]
    before = gpt.read(inputs, [gpt.site(SITE)])[SITE][0]
    with vector_of(gpt).apply(gpt, 1.0, tokens=tokens):
        after = gpt.read(inputs, [gpt.site(SITE)])[SITE][0]
    changed = torch.nonzero((after - before).abs().amax(1) > 1e-6)[:, 0].tolist()
    assert changed == wanted


def test_operators_are_their_formulas(gpt):
    values = torch.randn(50, 16)
    direction = torch.randn(16)
    along = direction / direction.norm()
    one = torch.tensor(1.0)
    kept = {name: operator.apply(values, direction, one) for name, operator in OPERATORS.items()}
    assert torch.allclose(kept["add"], values + direction)
    assert torch.allclose(kept["ablate"] @ along, torch.zeros(50), atol=1e-5)
    mirrored = OPERATORS["ablate"].apply(values, direction, torch.tensor(2.0))
    assert torch.allclose(mirrored @ along, -(values @ along), atol=1e-5)
    for name in ("add_norm", "rotate"):
        assert torch.allclose(kept[name].norm(dim=1), values.norm(dim=1), rtol=1e-5)
        assert bool((kept[name] @ along > values @ along).all())
    x, v = values[0] / values[0].norm(), along
    amount = 1 + max(0.0, float(-(x @ v)))
    expected = values[0].norm() * torch.nn.functional.normalize(x + amount * v, dim=0)
    assert torch.allclose(kept["rotate"][0], expected, atol=1e-5)


def test_strength_is_in_median_norms(gpt):
    vector = steer.SteeringVector.fit(
        gpt, [("good king", "bad king"), ("good queen", "bad queen")], [SITE], progress=False
    )
    inputs = inputs_of(gpt, ["the good king"])
    before = gpt.read(inputs, [gpt.site(SITE)])[SITE]
    with vector.apply(gpt, 0.25) as told:
        after = gpt.read(inputs, [gpt.site(SITE)])[SITE]
    assert (after - before).norm(dim=2).tolist()[0] == pytest.approx(
        [0.25 * vector.norms[SITE]] * before.shape[1], rel=1e-4
    )
    assert "strength 0.25" in str(told)
    assert "median norm" in str(told)


def test_contexts_nest_and_leave_the_model_as_it_was(gpt):
    inputs = inputs_of(gpt, TEXTS)
    first, second = vector_of(gpt), vector_of(gpt, "resid_post.0", seed=1)
    plain = logits_of(gpt, inputs)
    with first.apply(gpt, 0.5), second.apply(gpt, 0.3):
        both = logits_of(gpt, inputs)
    joined = first * 0.5 + second * 0.3
    with joined.apply(gpt, 1.0):
        assert torch.allclose(logits_of(gpt, inputs), both, atol=1e-5)
    with pytest.raises(ZeroDivisionError), first.apply(gpt, 0.5):
        raise ZeroDivisionError
    assert torch.equal(logits_of(gpt, inputs), plain)
    assert all(not item._forward_hooks and not item._forward_pre_hooks for item in gpt.module.modules())
    with first.apply(gpt, 0.5), first.apply(gpt, -0.5):
        assert torch.allclose(logits_of(gpt, inputs), plain, atol=1e-5)


def test_a_gate_gives_each_activation_its_share(gpt):
    inputs = inputs_of(gpt, ["the good king"])
    before = gpt.read(inputs, [gpt.site(SITE)])[SITE][0]
    open_to = before[:, 0] > before[:, 0].median()
    with vector_of(gpt).apply(gpt, 1.0, when=lambda rows: (rows[:, 0] > before[:, 0].median()).float()):
        after = gpt.read(inputs, [gpt.site(SITE)])[SITE][0]
    assert torch.equal((after - before).abs().amax(1) > 1e-6, open_to)


def test_other_sites_and_models(gpt):
    for site in ("resid_pre.1", "attn_out.0", "mlp_out.2", "mlp_neurons.1", "attn_heads.1"):
        inputs = inputs_of(gpt, ["the good king"])
        before = gpt.read(inputs, [gpt.site(site)])[site]
        with vector_of(gpt, site).apply(gpt, 1.0):
            after = gpt.read(inputs, [gpt.site(site)])[site]
        assert torch.allclose(after - before, vector_of(gpt, site).directions[site].expand_as(before), atol=1e-5)


def test_half_precision_is_steered_in_full(gpt):
    model = itda.wrap(tiny.module("Llama").to(torch.bfloat16), tiny.tokenizer())
    inputs = inputs_of(model, ["the good king"])
    before = model.read(inputs, [model.site(SITE)])[SITE]
    with vector_of(model).apply(model, 1.0):
        after = model.read(inputs, [model.site(SITE)])[SITE]
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, (before.float() + vector_of(model).directions[SITE]).to(torch.bfloat16))


def test_bad_input_is_refused(gpt):
    vector = vector_of(gpt)
    other = itda.wrap(tiny.module("GPT-2", seed=1), tiny.tokenizer())
    with pytest.raises(MismatchError, match="This steering vector"), vector.apply(other):
        pass
    with vector.apply(other, check_model=False):
        pass
    for strength in (float("nan"), float("inf"), "a lot", None, True):
        with pytest.raises(OptionError, match="finite number"):
            vector.apply(gpt, strength)
    for tokens in ("some", 1.5, [], [1, "x"], slice(0, 4, 2), None, True, steer.After(-1)):
        with pytest.raises(OptionError, match="tokens must be"):
            vector.apply(gpt, 1.0, tokens=tokens)
    with pytest.raises(OptionError, match="op must be one of"):
        vector.apply(gpt, op="multiply")
    with pytest.raises(SiteError):
        steer.SteeringVector.from_direction(gpt, "resid_post.9", torch.ones(16))
    with pytest.raises(OptionError, match="by name"), vector.apply(gpt):
        gpt.module()

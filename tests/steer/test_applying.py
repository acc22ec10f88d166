"""A steered model does what the formula says, at the tokens that were meant, and is left as it was found."""

import pytest
import torch

import itda
from itda import steer
from itda.errors import CorpusError, MismatchError, OptionError, SiteError
from itda.models import tokenizing
from itda.steer.operators import OPERATORS
from itda.steer.positions import prompts_end
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


def generated(model, inputs, **options):
    return model.module.generate(
        **inputs, max_new_tokens=7, do_sample=False, pad_token_id=0, eos_token_id=299,
        return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize("tokens", SELECTORS, ids=str)
def test_beams_are_steered_as_what_they_became(gpt, tokens):
    """Each beam's score is what reading it whole gives, though beams changed places while it was generated."""
    inputs = inputs_of(gpt, TEXTS[::2], side="left")
    if isinstance(tokens, steer.After):  # a token that some beams have and others do not
        plain = generated(gpt, inputs, num_beams=4, num_return_sequences=4).sequences[:, inputs["input_ids"].shape[1] :]
        tokens = steer.After(int(plain.flatten().mode().values))
    vector, sequences = vector_of(gpt), []
    with vector.apply(gpt, 6.0, tokens=tokens):
        for cache in (True, False):
            found = generated(gpt, inputs, num_beams=4, num_return_sequences=4, use_cache=cache)
            sequences.append((found.sequences, found.sequences_scores))
    assert torch.equal(sequences[0][0], sequences[1][0])
    assert torch.allclose(sequences[0][1], sequences[1][1], atol=1e-4)
    texts, start = sequences[0][0], inputs["input_ids"].shape[1]
    mask = torch.cat([inputs["attention_mask"].repeat_interleave(4, 0), torch.ones_like(texts[:, start:])], 1)
    lengths = inputs["attention_mask"].sum(1).repeat_interleave(4).tolist()
    with vector.apply(gpt, 6.0, tokens=tokens), prompts_end(lengths):
        logits = logits_of(
            gpt, {"input_ids": texts, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(0)}
        )
    chosen = logits.log_softmax(2)[:, start - 1 : -1].gather(2, texts[:, start:, None]).sum((1, 2)) / 7
    assert torch.allclose(chosen, sequences[0][1], atol=1e-4)


@pytest.mark.parametrize("tokens", SELECTORS, ids=str)
def test_a_cache_of_fixed_size_says_what_is_padding(gpt, tokens):
    inputs = inputs_of(gpt, TEXTS, side="left")
    with vector_of(gpt).apply(gpt, 6.0, tokens=tokens):
        found = [generated(gpt, inputs, cache_implementation=kind) for kind in ("dynamic", "static")]
    assert torch.equal(found[0].sequences, found[1].sequences)
    for growing, fixed in zip(found[0].scores, found[1].scores, strict=True):
        assert torch.allclose(growing, fixed, atol=1e-4)


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


def test_the_context_that_broke_a_model_is_the_one_that_is_named(gpt):
    inputs = inputs_of(gpt, ["the good king"])
    mild, wild = vector_of(gpt, "resid_post.0"), vector_of(gpt)
    with mild.apply(gpt, 0.1), wild.apply(gpt, 1e30), pytest.raises(OptionError, match=r"strength 1e\+30"):
        logits_of(gpt, inputs)


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
    wider = itda.wrap(tiny.wider(), tiny.tokenizer())
    with pytest.raises(MismatchError, match="has 16 numbers at"), vector.apply(wider, check_model=False):
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


class Counting(steer.TextGate):
    """Notes what it is asked about, and answers what it is told."""

    reads = (SITE,)

    def __init__(self, answer=None):
        self.asked, self.answer = [], answer

    def decide(self, states, mask, special):
        self.asked.append(mask.sum(1).tolist())
        return torch.ones(len(mask)) if self.answer is None else self.answer


def test_a_prompt_that_begins_as_an_earlier_one_is_a_new_one(gpt):
    ids, more = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 7, 8, 9]])
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    gate = Counting()
    for cache in (True, False):
        gate.asked.clear()
        with vector_of(gpt).apply(gpt, 0.5, when=gate):
            for prompt in (ids, more):
                gpt.module.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=cache, **options)
        assert gate.asked == [[3], [5]]
    plain = logits_of(gpt, {"input_ids": more})
    for tokens in ("prompt", "generation"):
        with vector_of(gpt).apply(gpt, 0.5, tokens=tokens):
            alone = logits_of(gpt, {"input_ids": more})
        with vector_of(gpt).apply(gpt, 0.5, tokens=tokens):
            logits_of(gpt, {"input_ids": ids})
            assert torch.equal(logits_of(gpt, {"input_ids": more}), alone)
        assert torch.equal(alone, plain) == (tokens == "generation")


def test_what_is_measured_behind_a_prompt_is_steered_as_it_is_generated(gpt):
    gate = Counting()
    texts = [("the good ", "king"), ("a ", "queen of old")]
    with vector_of(gpt).apply(gpt, 0.7, when=gate):
        found = steer.log_probabilities(gpt, texts)
    prompts = [len(gpt.tokenizer(prompt)["input_ids"]) for prompt, _ in texts]
    assert gate.asked == [prompts]
    with vector_of(gpt).apply(gpt, 0.7, tokens="generation"):
        generation = steer.log_probabilities(gpt, texts)
    plain = steer.log_probabilities(gpt, texts)
    assert not torch.allclose(generation, plain, atol=1e-3)
    assert not torch.allclose(found, generation, atol=1e-3)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.ones(1, 1), "one finite number"), (torch.ones(2), "one finite number"), ([1.0], "one finite number"),
        (torch.tensor([float("nan")]), "one finite number"),
        ({"resid_post.0": torch.ones(1)}, "not about resid_post.1"),
    ],
)  # fmt: skip
def test_a_gate_that_decides_nothing_is_said(gpt, answer, message):
    with vector_of(gpt).apply(gpt, 0.5, when=Counting(answer)), pytest.raises(OptionError, match=message):
        logits_of(gpt, {"input_ids": torch.tensor([[5, 6, 7]])})
    assert not gpt.module._forward_pre_hooks


def test_a_gate_that_runs_the_model_sees_it_unsteered(gpt):
    ids = torch.tensor([[5, 6, 7]])
    plain, seen = logits_of(gpt, {"input_ids": ids}), []

    class Judge(Counting):
        def decide(self, states, mask, special):
            seen.append(logits_of(gpt, {"input_ids": ids}))
            return torch.ones(len(mask))

    with vector_of(gpt).apply(gpt, 0.5, when=Judge()):
        steered = logits_of(gpt, {"input_ids": ids})
    assert torch.equal(seen[0], plain)
    assert not torch.equal(steered, plain)


def test_a_strength_that_makes_predictions_infinite_is_said(gpt):
    strong = steer.SteeringVector.from_direction(gpt, SITE, torch.ones(16), norm=1000.0)
    with pytest.raises(OptionError, match=r"predicts no numbers any more: add at resid_post\.1.*strength 1e\+38"):
        steer.generate(gpt, "the good", strong, strength=1e38, max_new_tokens=3)
    assert not gpt.module._forward_hooks
    assert steer.generate(gpt, "the good", strong, strength=1e-3, max_new_tokens=3)[0].text


def test_what_is_no_gate_is_refused(gpt):
    with pytest.raises(OptionError, match="when= is a gate"), vector_of(gpt).apply(gpt, 0.5, when=3):
        pass


def test_generation_of_several_answers_and_of_too_many_tokens(gpt):
    found = steer.generate(
        gpt, ["the good", "a"], max_new_tokens=4, num_return_sequences=2, do_sample=True, top_k=5
    )  # fmt: skip
    assert [one.prompt for one in found] == ["the good", "the good", "a", "a"]
    with pytest.raises(CorpusError, match="past the 64"):
        steer.generate(gpt, "a" * 60, max_new_tokens=40)
    with pytest.raises(OptionError, match=r"module\.generate"):
        steer.generate(gpt, "a", return_dict_in_generate=True)
    with pytest.raises(OptionError, match="SteeringVector"):
        steer.generate(gpt, "a", 3)
    inputs = inputs_of(gpt, ["the good king"])
    with pytest.raises(OptionError, match="cache_implementation"), vector_of(gpt).apply(gpt):
        gpt.module(input_ids=inputs["input_ids"], attention_mask=object())

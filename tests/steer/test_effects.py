"""What steering does is measured as defined, strengths are found, and a sweep recommends what its table shows."""

import math

import numpy as np
import pytest
import torch

import itda
from itda import steer
from itda.errors import CorpusError, ModelError, OptionError
from itda.steer.sweeping import Point, Sweep
from support import tiny

SITE = "resid_post.1"
NEUTRAL = tiny.KINGS[:6]
CONTRASTS = [("the ", "good", "bad"), ("a ", "king", "queen"), ("number ", "7", "8")]


@pytest.fixture(scope="module")
def gpt():
    return itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())


@pytest.fixture(scope="module")
def vector(gpt):
    generator = torch.Generator().manual_seed(1)
    sites = ("resid_post.0", SITE)
    directions = {site: torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0) for site in sites}
    return steer.SteeringVector(directions=directions, norms=dict.fromkeys(sites, 4.0), model=gpt.record)


def by_hand(gpt, text):
    """Log-probabilities of the tokens of a text, each read by itself."""
    ids = torch.tensor([gpt.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return ids[0], torch.log_softmax(gpt.module(input_ids=ids).logits.float(), -1)[0]


def test_a_continuation_keeps_its_first_space(llama):
    """Decoded alone, a sentencepiece tokenizer drops it."""
    prompt = "Once upon a time, there was a little"
    found = steer.generate(llama, prompt, max_new_tokens=6)[0].text
    assert (prompt + found).startswith("Once upon a time, there was a little girl")


def test_continuations_have_the_probability_of_their_tokens(gpt):
    found = steer.log_probabilities(gpt, [("the ", "good king"), ("a much longer prompt ", "x")])
    ids, logs = by_hand(gpt, "the good king")
    first = len(ids) - len("good king")  # a byte a token
    expected = sum(float(logs[place - 1, ids[place]]) for place in range(first, len(ids)))
    assert float(found[0]) == pytest.approx(expected, abs=1e-4)
    assert len(found) == 2
    differences = steer.contrast(gpt, [steer.Contrast(*one) for one in CONTRASTS])
    sides = [steer.log_probabilities(gpt, [(prompt, side)]) for prompt, *both in CONTRASTS for side in both]
    assert torch.allclose(differences, torch.cat(sides[::2]) - torch.cat(sides[1::2]), atol=1e-4)


def test_neutral_text_is_measured_as_defined(gpt, vector):
    text = steer.NeutralText(gpt, NEUTRAL)
    plain = text.measure()
    assert plain.kl == pytest.approx(0, abs=1e-6)
    losses, entropies, divergences = [], [], []
    with vector.apply(gpt, 0.5):
        steered = text.measure()
    for one in NEUTRAL:
        ids, before = by_hand(gpt, one)
        with vector.apply(gpt, 0.5):
            _, after = by_hand(gpt, one)
        losses += [-float(after[place, ids[place + 1]]) for place in range(len(ids) - 1)]
        entropies += (-(after.exp() * after).sum(1))[:-1].tolist()
        divergences += (before.exp() * (before - after)).sum(1)[:-1].tolist()
    assert steered.kl == pytest.approx(sum(divergences) / len(divergences), rel=1e-3)
    assert steered.entropy == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)
    assert steered.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


@pytest.mark.parametrize("op", ["add", "rotate"])
def test_the_strength_is_found_at_which_predictions_change_by_so_much(gpt, vector, op):
    found = steer.calibrate(gpt, vector, NEUTRAL, kl=0.002, op=op)
    assert found.kl == pytest.approx(0.002, rel=0.03)
    text = steer.NeutralText(gpt, NEUTRAL)
    with vector.apply(gpt, found.strength, op=op):
        assert text.measure().kl == pytest.approx(found.kl, rel=1e-4)
    assert f"strength {found.strength:.4g}" in str(found)


def test_a_divergence_that_nothing_reaches_is_said(gpt, vector):
    still = vector * 0.0
    with pytest.raises(OptionError, match="another site"):
        steer.calibrate(gpt, still, NEUTRAL, kl=0.1)
    with pytest.raises(OptionError, match="kl"):
        steer.calibrate(gpt, vector, NEUTRAL, kl=0)


def test_a_sweep_is_its_points(gpt, vector):
    found = steer.sweep(gpt, vector, CONTRASTS, NEUTRAL, strengths=(0.2, -0.2), most_perplexity=100, progress=False)
    assert [(point.site, point.strength) for point in found.points] == [
        (site, strength) for site in vector.sites for strength in (0.2, -0.2)
    ]
    given = [steer.Contrast(*one) for one in CONTRASTS]
    before = steer.contrast(gpt, given)
    with vector.at(SITE).apply(gpt, -0.2):
        risen = steer.contrast(gpt, given) - before
    assert found.points[3].effect == pytest.approx(float(risen.mean()), abs=1e-5)
    assert found.points[3].interval[0] <= found.points[3].effect <= found.points[3].interval[1]
    best = max(found.points, key=lambda point: point.effect)
    assert found.recommended == best
    assert "recommended" in str(found)
    assert f"{best.site} at strength {best.strength:g}" in found.reason
    assert found.to_json()["recommended"]["site"] == best.site
    one = steer.sweep(gpt, vector, CONTRASTS[:1], NEUTRAL, strengths=(0.2,), most_perplexity=100, progress=False)
    assert all(point.interval is None for point in one.points)
    assert str(one)


def test_a_recommendation_costs_no_more_than_it_may():
    def point(site, effect, perplexity):
        return Point(site, 1.0, effect, (effect, effect), 0.1, 3.0, perplexity)

    points = (point("a", 5.0, 200.0), point("b", 2.0, 12.0), point("c", 1.0, 10.5))
    assert Sweep("add", 10.0, 1.25, points).recommended.site == "b"
    assert Sweep("add", 10.0, 1.1, points).recommended.site == "c"
    assert Sweep("add", 10.0, 1.01, points).recommended is None
    assert "Nothing is recommended" in Sweep("add", 10.0, 1.01, points).reason
    assert Sweep("add", 10.0, 2.0, (point("a", -1.0, 10.0),)).recommended is None


def test_any_judge_can_say_what_is_good(gpt, vector):
    seen = []

    def judge(model):
        seen.append(model)
        return float(len(seen))

    found = steer.sweep(gpt, vector, [], NEUTRAL, strengths=(0.1,), judge=judge, most_perplexity=100, progress=False)
    assert [point.effect for point in found.points] == [1.0, 2.0]
    assert seen[0] is gpt


def test_generated_text_is_that_of_the_steered_model(gpt, vector):
    prompts = ["the good king", "a"]
    plain = steer.generate(gpt, prompts, max_new_tokens=6)
    alone = [steer.generate(gpt, prompt, max_new_tokens=6)[0] for prompt in prompts]
    assert [one.text for one in plain] == [one.text for one in alone], "padding changes nothing"
    assert plain[0].steered_by == ""
    steered = steer.generate(gpt, prompts, vector, strength=4.0, max_new_tokens=6)
    assert [one.text for one in steered] != [one.text for one in plain]
    assert "strength 4" in steered[0].steered_by
    assert [one.prompt for one in steered] == prompts
    assert [one.text for one in steer.generate(gpt, prompts, max_new_tokens=6)] == [one.text for one in plain]


def test_bad_input_is_refused(gpt, vector, minilm):
    with pytest.raises(CorpusError, match="Neutral text"):
        steer.NeutralText(gpt, [])
    with pytest.raises(ModelError, match="predicts no next token"):
        steer.NeutralText(minilm, NEUTRAL)
    with pytest.raises(CorpusError, match="no token that is predicted"):
        steer.log_probabilities(gpt, [("the", "")])
    with pytest.raises(CorpusError, match="longer"):
        steer.log_probabilities(gpt, [("x" * 100, "y")])
    with pytest.raises(OptionError, match="no contrast"):
        steer.contrast(gpt, [])
    with pytest.raises(OptionError, match="at least one strength"):
        steer.sweep(gpt, vector, CONTRASTS, NEUTRAL, strengths=())
    with pytest.raises(OptionError, match="finite"):
        steer.sweep(gpt, vector, CONTRASTS, NEUTRAL, strengths=(float("nan"),))
    with pytest.raises(OptionError, match="most_perplexity"):
        steer.sweep(gpt, vector, CONTRASTS, NEUTRAL, most_perplexity=0.5)
    for prompts in ([], "", ["a", ""], [3]):
        with pytest.raises(CorpusError, match="prompts"):
            steer.generate(gpt, prompts)
    with pytest.raises(OptionError, match="max_new_tokens"):
        steer.generate(gpt, "a", max_new_tokens=0)


@pytest.mark.parametrize("tokens", ["all", "prompt", "generation", "last", 1, -1, slice(1, None), "after"])
def test_what_steering_costs_is_seen_wherever_it_steers(gpt, vector, tokens):
    """A text that is not being generated has its second half in the place of what would be."""
    if tokens == "after":
        tokens = steer.After(gpt.tokenizer(NEUTRAL[0])["input_ids"][2])
    lower = vector.at("resid_post.0")
    strengths = np.array([0.5, 2.0])
    found = steer.sweep(gpt, lower, CONTRASTS, NEUTRAL, strengths=strengths, tokens=tokens, progress=False)
    costs = [point.kl for point in found.points]
    assert 1e-6 < costs[0] < costs[1]
    found = steer.calibrate(gpt, lower, NEUTRAL, kl=costs[0], tokens=tokens)
    assert found.strength == pytest.approx(0.5, rel=0.05)


def test_text_in_which_nothing_is_steered_is_refused(gpt, vector):
    with pytest.raises(OptionError, match="No neutral text has the token 299"):
        steer.calibrate(gpt, vector, NEUTRAL, tokens=steer.After(299))
    with pytest.raises(CorpusError, match="at least one text of 4 tokens"):
        steer.calibrate(gpt, vector, ["a"], tokens="generation")

import json

import pytest
import torch

from itda import Corpus, ablate, build, wrap
from itda.errors import ModelError, OptionError
from itda.models.tokenizing import batch, windows
from support import tiny


@pytest.fixture(scope="module")
def corpora():
    return Corpus.from_texts(tiny.KINGS).split(held_out=0.3, seed=0)


@pytest.fixture(scope="module")
def dictionary(model, corpora):
    return build(model, corpora[0], site="resid_post.1", atoms=24, progress=False)


def by_hand(model, dictionary, corpus, atom):
    """KL and rise of the loss at the tokens that use an atom, one text at a time, by a plain hook."""
    kl, rise, count = 0.0, 0.0, 0
    for document in corpus:
        (window,) = windows(model, [document.text], length=model.window)[0]
        inputs = batch(model, [window], length=None)
        kept = {}

        def hook(_, __, output, kept=kept, window=window):
            codes = dictionary.encode(output[0])
            own = torch.where(codes.atoms == atom, codes.coefficients, 0).sum(1) * torch.from_numpy(~window.special)
            kept["own"] = own
            changed = output.clone()
            changed[0] -= own[:, None] * dictionary.atoms[atom]
            return changed

        with torch.no_grad():
            clean = torch.log_softmax(model.module(**inputs).logits[0], 1)
            handle = model.module.model.layers[1].register_forward_hook(hook)
            changed = torch.log_softmax(model.module(**inputs).logits[0], 1)
            handle.remove()
        for place in torch.nonzero(kept["own"])[:, 0].tolist():
            if place + 1 < len(window):
                kl += float((clean[place].exp() * (clean[place] - changed[place])).sum())
                rise += float((clean - changed)[place, inputs["input_ids"][0, place + 1]])
                count += 1
    return kl / count, rise / count, count


def test_effects_by_their_definition(model, dictionary, corpora):
    effects = ablate(dictionary, model, corpora[1], tokens=None, windows=100, count=3, progress=False)
    assert len(effects.atoms) == 3
    assert [effect.kl for effect in effects.atoms] == sorted((effect.kl for effect in effects.atoms), reverse=True)
    for effect in effects.atoms:
        kl, rise, count = by_hand(model, dictionary, corpora[1], effect.atom)
        assert effect.tokens == count
        assert effect.kl == pytest.approx(kl, rel=1e-3)
        assert effect.delta_ce == pytest.approx(rise, abs=1e-5)
        assert effect.text == dictionary.describe(effect.atom)


def test_atoms_of_a_real_model_do_more_than_chance(llama, stories):
    train, held_out = stories.split(held_out=0.1, seed=0)
    dictionary = build(llama, train, site="resid_post.2", atoms=256, tokens=8_000, progress=False)
    effects = ablate(dictionary, llama, held_out, tokens=2000, count=6, progress=False)
    assert sum(effect.kl for effect in effects.atoms) > 0
    strongest = effects.atoms[0]
    assert strongest.kl > 0
    assert strongest.kl_random >= 0
    assert strongest.lift > 0
    assert all(value > 0 for _, value in (*strongest.promotes, *strongest.suppresses))
    assert json.loads(json.dumps(effects.to_json()))["atoms"][0]["atom"] == strongest.atom
    shown = str(effects)
    assert f"{strongest.kl:.4f}" in shown
    assert str(strongest.atom) in shown


def test_atoms_are_named_or_drawn(model, dictionary, corpora):
    named = ablate(dictionary, model, corpora[1], atoms=[0, 1, 2], tokens=None, progress=False)
    assert {effect.atom for effect in named.atoms} | set(named.unused) == {0, 1, 2}
    few = ablate(dictionary, model, corpora[1], atoms=range(24), tokens=8, progress=False)
    assert few.unused
    assert f"In no code of these tokens: {few.unused[0]}" in str(few)
    first, second = (ablate(dictionary, model, corpora[1], count=4, seed=3, progress=False) for _ in range(2))
    assert first == second


def test_what_cannot_be_left_out_is_refused(model, dictionary, corpora, minilm):
    with pytest.raises(OptionError, match="from 0 to 23"):
        ablate(dictionary, model, corpora[1], atoms=[24], progress=False)
    with pytest.raises(OptionError, match="from 0 to 23"):
        ablate(dictionary, model, corpora[1], atoms=["a"], progress=False)
    for atoms in (5, "5", [True]):
        with pytest.raises(OptionError, match="[Aa]toms "):
            ablate(dictionary, model, corpora[1], atoms=atoms, progress=False)
    with pytest.raises(OptionError, match="tokens must be"):
        ablate(dictionary, model, corpora[1], tokens=-1, progress=False)
    with pytest.raises(OptionError, match="count must be"):
        ablate(dictionary, model, corpora[1], count=0, progress=False)
    encoder = wrap(tiny.module("BERT"), tiny.tokenizer())
    with pytest.raises(ModelError, match="predicts no next token"):
        ablate(dictionary, encoder, corpora[1], check_model=False, progress=False)

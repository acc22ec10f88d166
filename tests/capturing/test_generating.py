import pytest
import torch
import transformers

import itda
from itda.errors import CorpusError, ModelError, OptionError
from itda.steer import SteeringVector

SITE = "resid_post.2"
PROMPTS = ["Once upon a time, there was", "The little dog"]


@pytest.mark.parametrize("which", ["llama", "gpt2"])
def test_what_is_read_while_writing_is_what_a_reading_gives(which, request):
    model = request.getfixturevalue(which)
    found = itda.capture_generation(model, PROMPTS, SITE, new_tokens=12, progress=False)
    assert len(found) == 2 * 11  # the last token is never read
    texts = [window.text for window in found.sources.windows]
    for prompt, text in zip(PROMPTS, texts, strict=True):
        assert text.startswith(prompt)
        ids = model.tokenizer(text, return_tensors="pt")
        again = model.read(dict(ids), [model.site(SITE)])[SITE][0]
        own = [
            row for row, source in enumerate(found.sources) if source.document == itda.Corpus.from_texts([text]).ids[0]
        ]
        if ids["input_ids"].shape[1] == len(again) and len(again) >= 12:
            assert torch.allclose(found.rows[own], again[-12:-1], atol=1e-4)
    assert "".join(source.token for source in found.sources)[:5] in texts[0]
    assert found.sources[0].before == PROMPTS[0]
    assert found.sources[0].text.startswith(f"{PROMPTS[0]}[")


def test_it_becomes_a_dictionary(llama, tmp_path):
    options = {"new_tokens": 20, "do_sample": True, "seed": 3, "progress": False}
    found = itda.capture_generation(llama, PROMPTS * 4, SITE, prompt=True, **options)
    again = itda.capture_generation(llama, PROMPTS * 4, SITE, prompt=True, **options)
    assert torch.equal(found.rows, again.rows)
    dictionary = itda.build_from_activations(found, atoms=32, steps=4, progress=False)
    dictionary.save_pretrained(tmp_path / "d")
    assert "[" in str(itda.explain(itda.Dictionary.from_pretrained(tmp_path / "d"), llama, "Once upon a time"))
    found.save(tmp_path / "a")
    assert len(itda.Activations.load(tmp_path / "a")) == len(found)


def test_a_steered_model_is_read_as_it_is_steered(llama):
    vector = SteeringVector.fit(llama, [("happy", "sad"), ("good", "bad")], sites=[SITE], progress=False)
    plain = itda.capture_generation(llama, PROMPTS, "resid_post.3", new_tokens=4, prompt=True, progress=False)
    with vector.apply(llama, strength=2.0):
        steered = itda.capture_generation(llama, PROMPTS, "resid_post.3", new_tokens=4, prompt=True, progress=False)
    assert not torch.allclose(plain.rows[0], steered.rows[0], atol=1e-2)


def test_what_cannot_be_written(llama, minilm):
    with pytest.raises(CorpusError, match="There must be prompts"):
        itda.capture_generation(llama, [], progress=False)
    with pytest.raises(CorpusError, match="There must be prompts"):
        itda.capture_generation(llama, ["", "x"], progress=False)
    with pytest.raises(CorpusError, match="longer than the 512 positions"):
        itda.capture_generation(llama, ["Once upon a time"], new_tokens=600, progress=False)
    with pytest.raises(ModelError, match="does not write text here"):
        itda.capture_generation(minilm, PROMPTS, progress=False)
    with pytest.raises(OptionError, match="num_beams is not for this"):
        itda.capture_generation(llama, PROMPTS, num_beams=4, progress=False)
    with pytest.raises(OptionError, match="new_tokens"):
        itda.capture_generation(llama, PROMPTS, new_tokens=0, progress=False)


def test_what_the_model_is_set_to_is_not_what_is_read(llama):
    expected = itda.capture_generation(llama, PROMPTS[:1], SITE, new_tokens=8, progress=False)
    own = llama.module.generation_config
    before = own.num_beams, own.return_dict_in_generate, own.prompt_lookup_num_tokens
    own.num_beams, own.return_dict_in_generate = 3, True
    try:
        found = itda.capture_generation(llama, PROMPTS[:1], SITE, new_tokens=8, progress=False)
        assert torch.equal(found.rows, expected.rows)
        own.num_beams, own.return_dict_in_generate, own.prompt_lookup_num_tokens = 1, False, 3
        with pytest.raises(OptionError, match="one token a pass"):
            itda.capture_generation(llama, ["dog dog dog dog dog dog"], SITE, new_tokens=20, progress=False)
    finally:
        own.num_beams, own.return_dict_in_generate, own.prompt_lookup_num_tokens = before
    with pytest.raises(OptionError, match="prompt_lookup_num_tokens is not for this"):
        itda.capture_generation(llama, PROMPTS, SITE, prompt_lookup_num_tokens=3)


def test_options_of_generate(llama):
    prompts = ["Once upon a time"]
    padded = itda.capture_generation(llama, prompts, new_tokens=6, pad_token_id=3, progress=False)
    assert torch.equal(padded.rows, itda.capture_generation(llama, prompts, new_tokens=6, progress=False).rows)
    text = itda.steer.generate(llama, prompts[0], max_new_tokens=12)[0].text
    word = text.split()[1]
    assert itda.steer.generate(llama, prompts[0], max_new_tokens=12, stop_strings=[word])[0].text.endswith(word)
    stopped = itda.capture_generation(llama, prompts, new_tokens=12, stop_strings=[word], progress=False)
    assert len(stopped) < 11
    drawn = transformers.GenerationConfig(do_sample=True, temperature=3.0, pad_token_id=0)
    several = {itda.steer.generate(llama, prompts[0], generation_config=drawn)[0].text for _ in range(4)}
    assert len(several) > 1
    for write in (
        lambda **options: itda.capture_generation(llama, prompts, new_tokens=4, progress=False, **options),
        lambda **options: itda.steer.generate(llama, prompts[0], max_new_tokens=4, **options),
    ):
        with pytest.raises(OptionError, match="temprature"):
            write(temprature=2.0)
        with pytest.raises(OptionError, match="input_ids is not for this"):
            write(input_ids=torch.ones(1, 2))

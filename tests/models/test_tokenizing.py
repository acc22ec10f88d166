import numpy as np
import pytest
import torch

from itda import Corpus, capture, wrap
from itda.errors import ModelError, OptionError
from itda.models.tokenizing import CANONICAL_BATCH, batch, canonical_batch, windows
from support import tiny

TEXT = "The quick brown fox jumps over the lazy dög — 你好 🙂."


@pytest.fixture(scope="module")
def model():
    return wrap(tiny.module("GPT-2"), tiny.tokenizer())


def test_windows_keep_every_character(model):
    (cut,) = windows(model, [TEXT], length=12)
    assert cut[0].start == 0
    assert cut[-1].end == len(TEXT)
    covered = {place for w in cut for s, e in zip(w.starts, w.ends, strict=True) for place in range(s, e)}
    assert covered == set(range(len(TEXT)))
    own = np.concatenate([w.index[~w.special] for w in cut])
    assert own.tolist() == list(range(len(own)))  # one count over the whole text


def test_tokens_lie_where_they_say(model):
    (cut,) = windows(model, [TEXT], length=64)
    window = cut[0]
    ascii_only = [(s, e, i) for s, e, i in zip(window.starts, window.ends, window.token_ids, strict=True) if e - s == 1]
    for start, end, token_id in ascii_only[1:20]:
        assert model.tokenizer.decode([token_id]).strip() == TEXT[start:end].strip()
    # one character of several bytes: its tokens share the characters
    smile = TEXT.index("🙂")
    assert sum((window.starts <= smile) & (window.ends > smile)) == 4


def test_every_window_gets_the_tokenizers_special_tokens():
    for begin, end in ((True, False), (False, True), (True, True), (False, False)):
        model = wrap(tiny.module("GPT-2"), tiny.tokenizer(begin=begin, end=end))
        for window in windows(model, [TEXT], length=16)[0]:
            assert len(window) <= 16
            assert bool(window.special[0]) == begin
            assert bool(window.special[-1]) == end
            assert (window.starts[0], window.ends[-1]) == (window.start, window.end)
            assert (window.index[window.special] == -1).all()


def test_bos_can_be_forced_or_forbidden():
    plain = wrap(tiny.module("GPT-2"), tiny.tokenizer(begin=False))
    for window in windows(plain, [TEXT], length=16, bos=True)[0]:
        assert (window.token_ids[0], window.special[0], len(window) <= 16) == (0, True, True)
    adding = wrap(tiny.module("GPT-2"), tiny.tokenizer())
    assert not any(window.special.any() for window in windows(adding, [TEXT], length=16, bos=False)[0])
    same = windows(adding, [TEXT], length=16, bos=True)[0]
    assert all(
        np.array_equal(a.token_ids, b.token_ids)
        for a, b in zip(same, windows(adding, [TEXT], length=16)[0], strict=True)
    )


def test_special_tokens_written_in_a_text_are_known(model):
    window = windows(model, ["a<s>b"], length=16)[0][0]
    assert window.special.tolist() == [True, False, True, False]
    assert window.index.tolist() == [-1, 0, 1, 2]


def test_unknown_tokens_are_text():
    tokenizer = tiny.tokenizer()
    tokenizer.unk_token = "!"
    model = wrap(tiny.module("GPT-2"), tokenizer)
    assert windows(model, ["a!b"], length=16)[0][0].special.tolist() == [True, False, False, False]


def test_a_padding_token_may_be_text():
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = "e"
    model = wrap(tiny.module("GPT-2"), tokenizer)
    assert windows(model, ["eve"], length=16)[0][0].special.tolist() == [True, False, False, False]


def test_a_forced_begin_token_has_room_beside_an_end_token():
    model = wrap(tiny.module("GPT-2"), tiny.tokenizer(begin=False, end=True))
    for window in windows(model, [TEXT], length=16, bos=True)[0]:
        assert len(window) <= 16
        assert (window.token_ids[0], window.token_ids[-1]) == (0, 1)


def test_empty_texts_have_no_window(model):
    assert [len(cut) for cut in windows(model, ["", "a", " "], length=8)] == [0, 1, 1]
    assert windows(model, [], length=8) == []


def test_the_callers_tokenizer_settings_come_back(model):
    model.tokenizer(["a", "bb"], padding=True, truncation=True, max_length=3)
    core = model.tokenizer.backend_tokenizer
    before = core.truncation, core.padding
    windows(model, [TEXT], length=8)
    assert (core.truncation, core.padding) == before


@pytest.mark.parametrize(
    ("length", "error", "says"), [(1, OptionError, "no room"), (65, OptionError, "longer than the 64")]
)
def test_lengths_that_cannot_be(model, length, error, says):
    with pytest.raises(error, match=says):
        windows(model, [TEXT], length=length)


def test_no_begin_token_to_force():
    tokenizer = tiny.tokenizer(begin=False)
    tokenizer.bos_token = None
    with pytest.raises(ModelError, match="no begin token"):
        windows(wrap(tiny.module("GPT-2"), tokenizer), ["a"], length=8, bos=True)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_goes_by_the_mask_not_by_the_token(model, side):
    parts = windows(model, ["<s><s>ab", "abcdefgh"], length=16)
    inputs = batch(model, [cut[0] for cut in parts], length=None, side=side)
    assert inputs["attention_mask"].sum(1).tolist() == [5, 9]  # the begin tokens of the text are real, though they pad
    real = inputs["input_ids"][0][inputs["attention_mask"][0].bool()]
    assert real.tolist() == parts[0][0].token_ids.tolist()
    if side == "left":
        assert inputs["position_ids"][0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4]


def test_the_canonical_shape_is_always_the_same(model):
    cut = windows(model, ["abc", "defgh"], length=16)
    inputs = canonical_batch(model, [part[0] for part in cut], length=16)
    assert inputs["input_ids"].shape == (CANONICAL_BATCH, 16)
    assert torch.equal(inputs["input_ids"][2], inputs["input_ids"][1])


def test_the_mark_before_a_text_stands_for_none_of_it(llama):
    window = windows(llama, ["1 Ünce  1"], length=32)[0][0]
    extents = list(zip(window.starts.tolist(), window.ends.tolist(), strict=True))
    assert llama.tokenizer.convert_ids_to_tokens(window.token_ids[1:3].tolist()) == ["▁", "1"]
    assert extents[:4] == [(0, 0), (0, 0), (0, 1), (1, 2)], "nothing, nothing, the number, a space"
    assert extents[4:6] == [(2, 3), (2, 3)], "both bytes of a letter are that letter"
    assert extents[-1] == (8, 9)
    rows = capture(llama, Corpus.from_texts(["1 Ünce  1"]), progress=False)
    assert [source.token for source in rows.sources][:3] == ["▁", "1", " "]

import numpy as np
import pytest
import torch

import itda
from itda import Activations, Corpus, capture, wrap
from itda.capturing import Capture, CaptureOptions, FewerRowsWarning, decomposed, whole_windows
from itda.capturing.sampling import spread
from itda.errors import ActivationError, CorpusError, FormatError, ModelError, OptionError, SiteError
from itda.models.tokenizing import windows
from support import tiny

TEXTS = [f"{'word ' * (7 * number % 23)}number {number}, a text of its own." for number in range(30)]


@pytest.fixture
def corpus():
    return Corpus.from_texts(TEXTS)


def take(model, corpus, site="resid_post.1", **options):
    return capture(model, corpus, site, progress=False, **options)


def test_rows_are_the_models_own_hidden_states(model):
    text = "A short text."
    found = take(model, Corpus.from_texts([text]), special_tokens="keep", sinks="keep")
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        hidden = model.module(ids, output_hidden_states=True).hidden_states[2][0]
    assert torch.allclose(found.rows, hidden, atol=1e-5)
    assert [source.token for source in found.sources] == ["<s>", *text]
    assert found.sources.token_id.tolist() == ids[0].tolist()


@pytest.mark.parametrize("name", list(tiny.ALL))
def test_no_row_comes_from_padding(name):
    """A text gives the same activations alone, beside longer ones, and padded on either side."""
    model = wrap(tiny.module(name), tiny.tokenizer())
    texts = ["tiny", "a text that is rather longer than the other one", "mid size"]
    together = {
        (canonical, side): take(model, Corpus.from_texts(texts), sinks="keep", canonical=canonical, padding_side=side)
        for canonical in (True, False)
        for side in ("right", "left")
    }
    alone = torch.cat([take(model, Corpus.from_texts([text]), sinks="keep", canonical=False).rows for text in texts])
    for (canonical, side), found in together.items():
        assert len(found) == sum(map(len, texts))
        if side == "right" or name not in tiny.ENCODERS:
            assert torch.allclose(found.rows, alone, atol=1e-4), (canonical, side)


def test_special_tokens_are_dropped_kept_and_counted(model, corpus):
    dropped, kept = take(model, corpus), take(model, corpus, special_tokens="keep")
    added = dropped.provenance.capture["counts"]["special"]
    assert added == kept.provenance.capture["counts"]["special"] > 0
    assert len(kept) - len(dropped) == added
    assert (dropped.sources.token_index >= 0).all()


def test_sinks_are_dropped_kept_and_counted(corpus):
    module = tiny.module("Llama")
    with torch.no_grad():  # the letter n becomes a sink
        module.model.embed_tokens.weight[tiny.tokenizer()("n")["input_ids"][1]] *= 1000
    model = wrap(module, tiny.tokenizer())
    letters = sum(text.count("n") for text in TEXTS)
    dropped = take(model, corpus, site="resid_pre.0")
    assert "n" not in {source.token for source in dropped.sources}
    assert dropped.provenance.capture["counts"]["sinks"] == letters
    kept = take(model, corpus, site="resid_pre.0", sinks="keep")
    assert len(kept) - len(dropped) == letters
    # a number of rows that was asked for is made up for by other tokens, as long as there are any
    assert len(take(model, corpus, site="resid_pre.0", tokens=200)) == 200
    everything = sum(map(len, TEXTS)) - 1
    with pytest.warns(FewerRowsWarning, match=f"of {everything:,} rows at 'resid_pre.0'"):
        assert len(take(model, corpus, site="resid_pre.0", tokens=everything)) == everything + 1 - letters


def test_tokens_are_spread_evenly_over_documents(model, corpus):
    found = take(model, corpus, tokens=300)
    assert len(found) == 300
    taken = np.unique([source.document for source in found.sources], return_counts=True)[1]
    assert len(taken) == len(TEXTS)
    assert taken.max() - taken.min() <= 1
    assert found.sources.keys() == take(model, corpus, tokens=300).sources.keys()
    assert found.sources.keys() != take(model, corpus, tokens=300, seed=1).sources.keys()


def test_short_documents_give_what_they_have():
    assert spread(10, {"a": 1, "b": 100, "c": 3}) == {"a": 1, "b": 6, "c": 3}
    assert spread(2, {"a": 5, "b": 5, "c": 5}) == {"a": 1, "b": 1, "c": 0}


def test_windows_keep_the_characters_of_long_documents(model):
    text = "".join(chr(97 + place % 26) for place in range(500))
    found = take(model, Corpus.from_texts([text]), window=32, sinks="keep")
    assert len(found) == 500
    assert found.sources.char_start.tolist() == list(range(500))
    assert "".join(source.token for source in found.sources) == text
    starts = sorted({source.window_start for source in found.sources})
    assert starts == list(range(0, 500, 31))
    assert found.sources[40].before == text[31:40]


def test_several_sites_come_from_one_pass_and_are_the_same_alone(model, corpus):
    passes = []
    handle = model.module.model.layers[0].register_forward_hook(lambda *_: passes.append(1))
    both = take(model, corpus, ["resid_post.0", "mlp_out.2"])
    together = len(passes)
    alone = take(model, corpus, "mlp_out.2")
    handle.remove()
    assert len(passes) == 2 * together
    assert torch.equal(both["mlp_out.2"].rows, alone.rows)
    assert both["mlp_out.2"].sources.keys() == alone.sources.keys()


def test_equal_prefixes_give_equal_rows(llama, stories):
    """Real model: a text and its continuations share their first activations to the bit."""
    story = next(iter(stories)).text
    texts = [story[:200], story[:330], story[:450], "Another one. " + story[:90], story]
    found = take(llama, Corpus.from_texts(texts), sinks="keep")
    by_document = {}
    for row, source in enumerate(found.sources):
        by_document.setdefault(source.document, []).append(row)
    first, *others = (found.rows[rows[:40]] for rows in by_document.values())
    for place in (0, 1, 3):
        assert torch.equal(first, others[place])


def test_the_callers_batch_size_changes_no_bit(gpt2, stories):
    few = Corpus.from_texts([document.text for document in stories][:60])
    whole = [take(gpt2, few, batch_size=size) for size in (1, 7, 32)]
    for other in whole[1:]:
        assert torch.equal(whole[0].rows, other.rows)
        assert whole[0].provenance == other.provenance
    loose = take(gpt2, few, batch_size=7, canonical=False)
    assert torch.allclose(loose.rows, whole[0].rows, atol=1e-3)


def test_activations_are_saved_whole(model, corpus, tmp_path):
    found = take(model, corpus, tokens=50)
    found.save(tmp_path / "a")
    again = Activations.load(tmp_path / "a")
    assert torch.equal(found.rows, again.rows)
    assert list(found.sources) == list(again.sources)
    assert (found.provenance.to_dict(), found.documents) == (again.provenance.to_dict(), again.documents)
    (tmp_path / "a" / "sources.safetensors").unlink()
    with pytest.raises(FormatError, match=r"sources\.safetensors is missing"):
        Activations.load(tmp_path / "a")


def test_memory_is_bounded_by_a_batch(model):
    """The corpus is a generator of many documents; rows are given out as they come."""
    read = []

    def texts():
        for number in range(400):
            read.append(number)
            yield f"document {number} " * 5

    run = Capture(model, Corpus(texts, "generated"), ["resid_post.0"], CaptureOptions())
    counted = len(read)
    sizes = [len(block["resid_post.0"].rows) for block in run]
    assert counted <= 800  # one reading to count documents and tokens
    assert max(sizes) <= 16 * 64
    assert sum(sizes) == run.total


def test_a_few_rows_of_many_documents_cut_only_those(model, monkeypatch):
    from itda.models import tokenizing

    cut, real = [], tokenizing.windows
    monkeypatch.setattr(
        tokenizing, "windows", lambda m, texts, **options: cut.extend(texts) or real(m, texts, **options)
    )
    found = take(model, Corpus.from_texts([f"document {number}" for number in range(3000)]), tokens=100)
    assert (len(found), len({source.document for source in found.sources})) == (100, 100)
    assert len(set(cut)) == 100


def test_whole_windows_come_from_all_documents_first(model, corpus):
    chosen = whole_windows(model, corpus, tokens=500, length=32, bos=None, seed=0)
    assert 500 <= sum(len(window) for _, window in chosen) < 532
    assert len({document.id for document, _ in chosen}) == len(chosen)
    everything = whole_windows(model, corpus, tokens=None, length=32, bos=None, seed=0)
    assert sum((~w.special).sum() for _, w in everything) == sum(map(len, TEXTS))


def test_what_a_dictionary_is_meant_for(model):
    window = windows(model, ["abc"], length=8)[0][0]
    values = torch.tensor([[9.0], [1.0], [50.0], [1.0]])
    captured = {"special_tokens": "drop", "sinks": "drop", "sink_norm": 10.0}
    assert decomposed(window, values, captured).tolist() == [False, True, False, True]
    assert decomposed(window, values, captured | {"sinks": "keep"}).tolist() == [False, True, True, True]
    assert decomposed(window, values, {}).all()


def test_nan_activations_are_refused(corpus):
    module = tiny.module("Llama")
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ActivationError, match=r"'resid_post.1' must be finite.*float32"):
        take(wrap(module, tiny.tokenizer()), corpus)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"site": "resid_post.9"}, SiteError, "layers 0 to 2"),
        ({"site": []}, OptionError, "needs sites"),
        ({"site": ["resid_post.0", "resid_post.0"]}, OptionError, "each once"),
        ({"tokens": 0}, OptionError, "tokens must be a whole number"),
        ({"tokens": 10**9}, CorpusError, "Got tokens=1,000,000,000; ask for fewer"),
        ({"window": 1}, OptionError, "no room"),
        ({"window": 1000}, OptionError, "longer than the 64"),
        ({"batch_size": 0}, OptionError, "batch_size"),
        ({"sinks": "maybe"}, OptionError, "drop, keep"),
        ({"sink_ratio": 0.5}, OptionError, "above 1"),
        ({"sink_ratio": float("inf")}, OptionError, "finite"),
        ({"sink_ratio": "a"}, OptionError, "finite"),
        ({"seed": -1}, OptionError, "seed must be"),
        ({"seed": 1.5}, OptionError, "seed must be"),
        ({"padding_side": "top"}, OptionError, "right, left"),
        ({"colour": 1}, OptionError, "There is no option 'colour'"),
    ],
)
def test_bad_options_say_what_was_wanted(model, corpus, options, error, says):
    with pytest.raises(error, match=says):
        take(model, corpus, **options)


def test_wrong_things_say_what_was_wanted(model, corpus):
    with pytest.raises(ModelError, match=r"itda\.load_model"):
        take(model.module, corpus)
    with pytest.raises(CorpusError, match=r"Corpus\.from_texts"):
        take(model, TEXTS)
    with pytest.raises(CorpusError, match="gives no token"):
        take(model, Corpus.from_texts(["<s>"]))
    with pytest.raises(CorpusError, match="no document with text"):
        take(model, Corpus.from_texts([]))


def test_documents_of_one_token_are_fine(model):
    found = take(model, Corpus.from_texts(["a", "b", "c"]))
    assert [source.token for source in found.sources] == ["a", "b", "c"]


def test_texts_are_tokenized_a_few_at_a_time(model, monkeypatch):
    sizes, real = [], itda.models.tokenizing.windows

    def counted(model, texts, **options):
        sizes.append([len(text) for text in texts])
        return real(model, texts, **options)

    corpus = itda.Corpus.from_texts([f"{place} king " * (1 if place % 5 else 30) for place in range(100)])
    plain = itda.capture(model, corpus, progress=False)
    monkeypatch.setattr(itda.models.tokenizing, "windows", counted)
    monkeypatch.setattr(itda.capturing.sampling, "_CHARACTERS_AT_ONCE", 100)
    assert torch.equal(itda.capture(model, corpus, progress=False).rows, plain.rows)
    assert all(sum(group) <= 100 or len(group) == 1 for group in sizes)
    assert max(map(len, sizes)) == 4


def test_text_of_special_tokens_alone_can_be_taken():
    model = wrap(tiny.module("GPT-2"), tiny.tokenizer())
    found = itda.capture(model, Corpus.from_texts(["<s><s>"]), special_tokens="keep", progress=False)
    assert len(found) == found.provenance.capture["counts"]["rows"] > 0
    assert found.provenance.capture["sink_norm"] > 0


@pytest.mark.parametrize("begin", [True, False])
def test_windows_that_begin_with_a_token_of_their_own_are_counted(begin):
    model = wrap(tiny.module("GPT-2"), tiny.tokenizer(begin=begin))
    found = itda.capture(model, Corpus.from_texts(["a king<s>", "a queen"]), progress=False)
    counts = found.provenance.capture["counts"]
    assert (counts["begins"] if begin else counts.get("begins", 0)) == 2 * begin
    assert counts["special"] == 1 + 2 * begin

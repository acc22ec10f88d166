import json
import warnings

import numpy as np
import pytest
import torch

from itda import (
    Coding,
    Corpus,
    build,
    build_from_activations,
    capture,
    encode,
    evaluate,
    evaluate_activations,
    explain,
    wrap,
)
from itda.errors import CorpusError, MismatchError, ModelError, OptionError
from itda.evaluation.statistics import DocumentSums, interval
from itda.models.tokenizing import batch, windows
from itda.pursuit import pursue
from support import tiny

TEXTS = tiny.KINGS


@pytest.fixture(scope="module")
def corpora():
    return Corpus.from_texts(TEXTS).split(held_out=0.3, seed=0)


@pytest.fixture(scope="module")
def dictionary(model, corpora):
    return build(model, corpora[0], site="resid_post.1", atoms=48, progress=False)


@pytest.fixture(scope="module")
def report(model, dictionary, corpora):
    return evaluate(dictionary, model, corpora[1], tokens=None, progress=False)


def held_out_rows(model, dictionary, corpus):
    found = capture(model, corpus, dictionary.site, progress=False)
    return found, dictionary.encode(found)


def test_fvu_by_its_definition(model, dictionary, corpora, report):
    found, codes = held_out_rows(model, dictionary, corpora[1])
    rows, rebuilt = found.rows.double(), dictionary.decode(codes).double()
    error = (rows - rebuilt).square().sum()
    assert report.tokens == len(rows)
    assert report.fvu == pytest.approx(float(error / (rows - rows.mean(0)).square().sum()), rel=1e-4)
    beyond = rows - dictionary.token_means.of(found.sources.token_id).double()
    assert report.residual_fvu == pytest.approx(float(error / beyond.square().sum()), rel=1e-4)
    assert report.l0 == pytest.approx(float(codes.l0.double().mean()))
    cosine = torch.nn.functional.cosine_similarity(rows, rebuilt, dim=1).mean()
    assert report.cosine == pytest.approx(float(cosine), abs=1e-5)
    shares = codes.unexplained.double().numpy()
    assert report.unexplained["mean"] == pytest.approx(shares.mean(), abs=1e-5)
    assert report.unexplained["95%"] == pytest.approx(np.quantile(shares, 0.95), abs=1e-4)
    assert report.atoms_never_used == int((codes.usage(48) == 0).sum())
    assert report.atoms_used_everywhere == int((2 * codes.usage(48) >= len(rows)).sum())
    own, centred = rebuilt - dictionary.mean, rows - dictionary.mean
    assert report.norm_ratio == pytest.approx(float((own.norm(dim=1) / centred.norm(dim=1)).mean()), rel=1e-4)
    assert report.shrinkage == pytest.approx(float(own.square().sum() / (own * centred).sum()), rel=1e-4)
    share = codes.usage(48).double() / len(rows)
    classes = {"never": share == 0, "0.001 to 0.01": (share > 0.001) & (share <= 0.01), "0.1 to 1": share > 0.1}
    assert {name: report.density[name] for name in classes} == {name: int(own.sum()) for name, own in classes.items()}
    assert sum(report.density.values()) == 48


def by_hand(model, dictionary, corpus, replace, every=False):
    """Mean next-token loss and divergence with hidden states replaced, one text at a time, by a plain hook."""
    total, divergence, count = 0.0, 0.0, 0
    for document in corpus:
        for window in windows(model, [document.text], length=model.window)[0]:
            inputs = batch(model, [window], length=None)
            ids = inputs["input_ids"]
            keep = torch.ones(len(window), dtype=torch.bool) if every else torch.from_numpy(~window.special)

            def hook(_, __, output, keep=keep):
                changed = output.clone()
                changed[0, keep] = replace(output[0, keep])
                return changed

            with torch.no_grad():
                clean = torch.log_softmax(model.module(**inputs).logits[0, :-1], 1)
                handle = model.module.model.layers[1].register_forward_hook(hook)
                changed = torch.log_softmax(model.module(**inputs).logits[0, :-1], 1)
                handle.remove()
            total -= float(changed.gather(1, ids[0, 1:, None]).sum())
            divergence += float((clean.exp() * (clean - changed)).sum())
            count += ids.shape[1] - 1
    return total / count, divergence / count


def test_losses_by_their_definition(model, dictionary, corpora, report):
    mean = dictionary.token_means.overall
    rules = {
        "own": lambda rows: dictionary.decode(dictionary.encode(rows)),
        "zero": torch.zeros_like,
        "mean": lambda rows: mean.expand_as(rows),
        "clean": lambda rows: rows,
    }
    loss = {name: by_hand(model, dictionary, corpora[1], rule) for name, rule in rules.items()}
    assert report.loss == pytest.approx(loss["clean"][0], abs=1e-4)
    assert report.loss_zero == pytest.approx(loss["zero"][0], abs=1e-4)
    assert report.delta_ce == pytest.approx(loss["own"][0] - loss["clean"][0], abs=1e-4)
    assert report.kl == pytest.approx(loss["own"][1], abs=1e-4)

    def score(ablation):
        return (loss["own"][0] - ablation) / (loss["clean"][0] - ablation)

    assert report.ce_score == pytest.approx(score(loss["zero"][0]), abs=1e-2)
    assert report.ce_score_mean == pytest.approx(score(loss["mean"][0]), abs=1e-2)
    every = by_hand(model, dictionary, corpora[1], rules["own"], every=True)
    assert report.everything_replaced.delta_ce == pytest.approx(every[0] - loss["clean"][0], abs=1e-4)
    assert report.not_decomposed["special"] == len(corpora[1])


def test_baselines_stand_beside(report):
    assert list(report.baselines) == ["mean", "token mean", "random atoms"]
    assert report.baselines["mean"].fvu == pytest.approx(1, abs=0.1)
    assert report.baselines["token mean"].residual_fvu == pytest.approx(1)
    assert 0 < report.baselines["random atoms"].fvu < 1


def test_a_perfect_dictionary_changes_nothing(model, corpora):
    rows = capture(model, Corpus.from_texts(TEXTS), "resid_post.1", special_tokens="keep", progress=False).rows
    basis = build_from_activations(rows, max_unexplained=1e-3, coding=Coding(steps=16, method="omp"), progress=False)
    report = evaluate(basis, model, corpora[1], site="resid_post.1", progress=False)
    assert report.fvu < 1e-3
    assert abs(report.delta_ce) < 1e-3
    assert report.ce_score == pytest.approx(1, abs=0.05)
    assert report.residual_fvu is None  # no tokens are known for a bare array
    assert "random atoms" not in report.baselines
    assert report.everything_replaced is None


def test_a_least_squares_fit_shrinks_nothing(model, dictionary, corpora, report):
    fitted = evaluate(dictionary, model, corpora[1], coding=Coding(steps=4, method="omp"), progress=False)
    assert fitted.shrinkage == pytest.approx(1, abs=1e-4)
    assert fitted.norm_ratio < 1
    assert 0.9 < report.shrinkage < 1.1


@pytest.fixture(scope="module")
def sinking():
    """A model of which one token is a sink wherever it stands."""
    module = tiny.module("Llama")
    with torch.no_grad():
        module.model.embed_tokens.weight[tiny.tokenizer()("n")["input_ids"][1]] *= 1000
    return wrap(module, tiny.tokenizer())


def test_sinks_count_in_the_figures_with_every_token_only(sinking, corpora):
    dictionary = build(sinking, corpora[0], site="resid_pre.0", atoms=48, progress=False)
    report = evaluate(dictionary, sinking, corpora[1], progress=False)
    assert report.not_decomposed["sink"] > 0
    assert report.everything_replaced.fvu > 2 * report.fvu, "no atom is as long as a sink"
    assert report.everything_replaced.delta_ce != report.delta_ce
    stored = capture(sinking, corpora[1], "resid_pre.0", sinks="keep", progress=False)
    again = evaluate_activations(dictionary, stored, progress=False)
    assert again.not_decomposed["sink"] == report.not_decomposed["sink"]
    assert again.fvu == pytest.approx(report.fvu, rel=1e-3)


def test_sinks_are_explained_by_no_atom(sinking, corpora):
    dictionary = build(sinking, corpora[0], site="resid_pre.0", atoms=48, progress=False)
    tokens = explain(dictionary, sinking, "aana", progress=False).tokens
    found = [(token.left_out, bool(token.pieces)) for token in tokens if token.token in "an"]
    assert found == [(None, True), (None, True), ("sink", False), (None, True)]


def test_special_tokens_count_in_the_figures_with_every_token_only(corpora):
    encoder = wrap(tiny.module("BERT"), tiny.tokenizer())
    dictionary = build(encoder, corpora[0], site="resid_post.1", atoms=48, progress=False)
    report = evaluate(dictionary, encoder, corpora[1], progress=False)
    assert report.not_decomposed["special"] > 0
    assert report.everything_replaced.delta_ce is None
    assert report.everything_replaced.fvu != report.fvu


def test_documents_it_was_built_from_are_left_out(model, dictionary, corpora, report):
    both = evaluate(dictionary, model, Corpus.from_texts(TEXTS), tokens=None, progress=False)
    assert both.excluded_documents == len(corpora[0])
    assert (both.tokens, both.fvu, both.delta_ce) == (report.tokens, report.fvu, report.delta_ce)
    with pytest.raises(CorpusError, match="built from all 21 documents"):
        evaluate(dictionary, model, corpora[0], progress=False)


def test_text_that_was_cut_otherwise_is_warned_about(model, tmp_path):
    from itda.evaluation import PerhapsSeenWarning

    (tmp_path / "kings.txt").write_text("\n\n".join(TEXTS))
    cut = Corpus.from_files(tmp_path / "kings.txt", split_on="\n\n")
    own = build(model, cut.split(held_out=0.3, seed=0)[0], site="resid_post.1", atoms=48, progress=False)
    with pytest.warns(PerhapsSeenWarning, match="built from kings.txt too, and none of these 1 documents"):
        report = evaluate(own, model, Corpus.from_files(tmp_path / "kings.txt"), progress=False)
    assert "no intervals, since there is one document" in str(report)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PerhapsSeenWarning)
        evaluate(own, model, cut, progress=False)
        evaluate(own, model, cut.without(own.documents), progress=False)


def test_the_same_seed_gives_the_same_report(model, dictionary, corpora, report):
    assert evaluate(dictionary, model, corpora[1], tokens=None, progress=False) == report


def test_encoders_have_no_loss(corpora):
    model = wrap(tiny.module("BERT"), tiny.tokenizer(end=True))
    dictionary = build(model, corpora[0], site="resid_post.1", atoms=48, progress=False)
    report = evaluate(dictionary, model, corpora[1], progress=False)
    assert report.loss is report.delta_ce is report.ce_score is report.kl is None
    assert 0 < report.fvu < 1
    assert report.predictions == 0
    assert "no loss: the model predicts no next token" in str(report)


def test_special_tokens_count_wherever_they_come(model, dictionary):
    """A token that is left out in a late batch must not hide the earlier ones, nor the other way round."""
    plain = wrap(tiny.module("Llama"), tiny.tokenizer(begin=False))
    own = build(plain, Corpus.from_texts(TEXTS), site="resid_post.1", atoms=48, progress=False)
    texts = [f"a text of its own with number {number}" for number in range(60)]
    found = []
    for place in (0, 59):
        marked = [text + "<s>" * (number == place) for number, text in enumerate(texts)]
        report = evaluate(own, plain, Corpus.from_texts(marked), tokens=None, baselines=False, progress=False)
        assert report.not_decomposed["special"] == 1
        every = report.everything_replaced
        assert every.delta_ce == pytest.approx(report.delta_ce, abs=0.05)
        assert every.ce_score == pytest.approx(report.ce_score, abs=0.2)
        assert every.fvu != report.fvu
        found.append(every.kl)
    assert found[0] == pytest.approx(found[1], rel=0.2)


def test_what_is_not_defined_is_said(model, dictionary):
    report = evaluate(dictionary, model, Corpus.from_texts(["a", "b", "c"]), progress=False)
    assert report.tokens == 3
    one = evaluate(dictionary, model, Corpus.from_texts(["a"]), progress=False)
    assert one.to_json()["scores"]["fvu"] is None
    assert "undefined" in str(one)
    assert "fvu" not in one.intervals
    json.dumps(report.to_json(), allow_nan=False)
    json.dumps(one.to_json(), allow_nan=False)


def test_there_are_as_many_random_atoms_as_atoms(model, corpora):
    from itda.evaluation.replacements import random_atoms

    long = Corpus.from_texts(["".join(TEXTS)])  # few windows, many atoms
    own = build(model, long, site="resid_post.1", atoms=600, progress=False)
    assert len(own.sources.windows) * 8 < 600
    assert len(random_atoms(own, model, "resid_post.1", 0).prepared) == 600


def test_random_atoms_are_given_no_more_than_the_dictionary(llama, stories):
    from itda.evaluation.replacements import random_atoms

    own = build(llama, stories, atoms=256, steps=4, tokens=4000, progress=False)
    found = random_atoms(own, llama, own.site, 0)
    coding = found.coding(own.coding, "auto")
    assert own.coding.varies
    assert pursue(found.others, found.prepared, coding).l0.double().mean() == pytest.approx(4, rel=0.03)
    assert pursue(found.others, found.prepared, own.coding).l0.double().mean() > 4.5
    exact = own.coding.with_options(steps=4)
    assert found._replace(others=found.others[:10]).coding(own.coding, "auto") == exact
    assert found.coding(exact, "auto") == exact
    assert found.coding(own.coding.asked, "auto") == own.coding.asked


def test_a_place_that_is_not_used_is_said(corpora):
    module = tiny.module("GPT-2")
    module.transformer.h[1].side = torch.nn.Linear(16, 16)
    real = module.transformer.h[1].forward

    def forward(hidden_states, *args, **kwargs):
        module.transformer.h[1].side(hidden_states)  # computed, and thrown away
        return real(hidden_states, *args, **kwargs)

    module.transformer.h[1].forward = forward
    model = wrap(module, tiny.tokenizer())
    own = build(model, corpora[0], site="transformer.h.1.side", atoms=48, progress=False)
    report = evaluate(own, model, corpora[1], progress=False)
    assert report.delta_ce == 0
    assert report.to_json()["scores"]["ce_score"] is None
    assert "does not use this place" in str(report)


def test_json_and_table(report):
    document = json.loads(json.dumps(report.to_json()))
    assert document["scores"]["fvu"] == report.fvu
    printed = str(report)
    for value in (report.fvu, report.residual_fvu, report.delta_ce, report.ce_score, report.kl):
        assert f"{value:.4f}" in printed


def test_intervals_hold_the_number_and_cover(report):
    for name, (low, high) in report.intervals.items():
        assert low <= getattr(report, name) <= high, name
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):  # a ratio of sums whose true value is 2
        weight = generator.uniform(1, 3, 40)
        table = {"part": weight * generator.normal(2, 1, 40), "whole": weight}
        low, high = interval(lambda sums: sums["part"] / sums["whole"], table, resamples=300, seed=trial)
        covered += low <= 2 <= high
    assert 0.88 <= covered / 200 <= 0.99
    assert interval(lambda sums: 1.0, {"part": np.ones(1)}, resamples=10, seed=0) is None


def test_sums_keep_documents_apart():
    sums = DocumentSums()
    sums.add("a", count=1, vector=np.array([1.0, 2.0]))
    sums.add("b", count=2)
    sums.add("a", count=3, vector=np.array([1.0, 0.0]), late=5)
    table = sums.table()
    assert table["count"].tolist() == [4, 2]
    assert table["vector"].tolist() == [[2, 2], [0, 0]]
    assert table["late"].tolist() == [5, 0]


@pytest.mark.parametrize("site", ["attn_out.1", "attn_heads.1", "mlp_out.1", "mlp_neurons.1"])
def test_other_places_are_measured_by_the_same_definitions(model, corpora, site):
    dictionary = build(model, corpora[0], site=site, atoms=32, steps=4, progress=False)
    found = evaluate(dictionary, model, corpora[1], tokens=None, progress=False)
    rows, codes = held_out_rows(model, dictionary, corpora[1])
    error = (rows.rows - dictionary.decode(codes)).double().square().sum()
    around = (rows.rows.double() - rows.rows.double().mean(0)).square().sum()
    assert found.fvu == pytest.approx(float(error / around), rel=1e-4)
    assert found.fvu < found.baselines["mean"].fvu
    assert abs(found.delta_ce) < abs(found.baselines["mean"].delta_ce) + 0.05
    text = "the good king"
    codes = dictionary.encode(capture(model, Corpus.from_texts([text]), site, progress=False))
    assert explain(dictionary, model, text).unexplained == pytest.approx(float(codes.unexplained.mean()), abs=1e-4)


def test_steps_and_a_coding_contradict_each_other(model, dictionary, corpora):
    for measure in (
        lambda **asked: evaluate(dictionary, model, corpora[1], progress=False, **asked),
        lambda **asked: encode(dictionary, model, corpora[1], progress=False, **asked),
        lambda **asked: dictionary.encode(torch.ones(2, 16), **asked),
        lambda **asked: pursue(torch.ones(2, 16), dictionary.atoms, **asked),
    ):
        with pytest.raises(OptionError, match="not both"):
            measure(steps=2, coding=Coding(steps=3))


def test_other_codings_on_request(model, dictionary, corpora, report):
    more = evaluate(dictionary, model, corpora[1], tokens=None, steps=10, baselines=False, progress=False)
    assert more.fvu < report.fvu
    assert more.baselines == {}
    assert more.coding["steps"] == 10


def test_what_cannot_be_evaluated(model, dictionary, corpora):
    with pytest.raises(ModelError, match=r"itda\.load_model"):
        evaluate(dictionary, model.module, corpora[1])
    with pytest.raises(CorpusError, match=r"Corpus\.from_texts"):
        evaluate(dictionary, model, TEXTS)
    with pytest.raises(OptionError, match="tokens must be"):
        evaluate(dictionary, model, corpora[1], tokens=0)
    other = wrap(tiny.module("Llama", seed=1), tiny.tokenizer(), id="another")
    with pytest.raises(MismatchError, match=r"'another'.*check_model=False"):
        evaluate(dictionary, other, corpora[1])
    with pytest.raises(MismatchError, match="The dictionary has width 16, and 'resid_post.1' of this model has 32"):
        evaluate(dictionary, wrap(tiny.wider(), tiny.tokenizer()), corpora[1], check_model=False)
    with pytest.raises(CorpusError, match="no document with text"):
        evaluate(dictionary, model, Corpus.from_texts([]))
    with pytest.raises(OptionError, match="seed must be"):
        evaluate(dictionary, model, corpora[1], seed=-1)
    with pytest.raises(OptionError, match="must be a Coding. Got str"):
        evaluate(dictionary, model, corpora[1], coding="mp")
    with pytest.raises(OptionError, match=r"itda\.Dictionary. Got str"):
        evaluate("runs/l2", model, corpora[1])
    with pytest.raises(CorpusError, match="special or a sink"):
        evaluate(dictionary, model, Corpus.from_texts(["<s>a"[:3] + "<s>"]), progress=False)


def test_where_the_token_decides_nothing_is_beyond_it(model, corpora):
    dictionary = build(model, corpora[0], site="resid_pre.0", atoms=16, steps=2, progress=False)
    report = evaluate(dictionary, model, corpora[1], progress=False)
    assert report.baselines["token mean"].fvu < 1e-4
    assert report.to_json()["scores"]["residual_fvu"] is None
    assert "residual_fvu" not in report.intervals
    assert "undefined" in str(report)


def test_a_dictionary_that_knows_no_mean_is_beside_none(model, corpora):
    rows = capture(model, corpora[0], "resid_post.1", progress=False).rows
    bare = build_from_activations(rows, method="paper", max_cosine_gap=0.1, atoms=32, steps=2, progress=False)
    assert not bare.mean.any()
    report = evaluate(bare, model, corpora[1], site="resid_post.1", progress=False)
    assert "mean" not in report.baselines
    assert report.loss_mean is None
    assert report.ce_score_mean is None
    assert report.ce_score is not None
    assert "the mean" not in str(report)
    centred = build_from_activations(rows, atoms=32, steps=2, progress=False)
    assert evaluate(centred, model, corpora[1], site="resid_post.1", progress=False).loss_mean is not None

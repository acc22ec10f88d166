"""Counts, sizes and seeds may be numbers of NumPy, as a sweep over `np.logspace` has them."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

import itda
from itda import compare, planning, steer
from itda.errors import OptionError
from itda.options import above_zero, finite_number, seconds, share
from support import tiny

CORPUS = itda.Corpus.from_texts([text * 4 for text in tiny.KINGS])
OTHERS = itda.Corpus.from_texts([f"a ship of {number} sails went over the grey sea" for number in range(12)])
SITE = "resid_post.1"


def build(model, whole, real):
    return itda.build(model, CORPUS, site=SITE, atoms=whole(24), steps=whole(3), tokens=whole(300), seed=whole(1),
                      window=whole(32), batch_size=whole(4), sink_ratio=real(8), progress=False)  # fmt: skip


@pytest.fixture(scope="module")
def dictionary(model):
    return build(model, int, float)


def test_a_dictionary_is_the_same_to_the_byte(model, dictionary, tmp_path):
    other = build(model, np.int64, np.float32)
    assert other.coding == dictionary.coding
    assert type(other.coding.steps) is int
    folders = [tmp_path / name for name in ("one", "other")]
    for made, folder in zip((dictionary, other), folders, strict=True):
        made.save_pretrained(folder)
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def smaller(dictionary):
    return itda.build_from_activations(dictionary.activations, atoms=8, steps=2, progress=False)


def steered(dictionary, model, whole, real):
    vector = steer.SteeringVector.from_atoms(dictionary, {whole(3): real(2), whole(5): real(-1)})
    with (real(0.5) * vector).apply(model, real(0.25), tokens=[whole(-1), whole(0)]):
        return steer.generate(model, "the king", vector, strength=real(0.5), tokens=whole(-1), max_new_tokens=whole(4))


USES = {
    "build to a threshold": lambda d, m, n, x: itda.build_from_activations(
        d.activations, max_unexplained=x(0.25), block=n(8), steps=n(2), progress=False
    ),
    "mixture": lambda d, m, n, x: itda.build_from_activations(
        d.activations, atoms=n(8), steps=n(2), method="mixture", parts=n(3), passes=n(2), pool=n(20), progress=False
    ),
    "extend": lambda d, m, n, x: itda.extend_from_activations(
        smaller(d), d.activations + 1, atoms=n(4), seed=n(2), progress=False
    ),
    "merge": lambda d, m, n, x: itda.merge([d], atoms=n(12)),
    "capture": lambda d, m, n, x: (
        itda.capture(
            m, CORPUS, SITE, tokens=n(100), window=n(16), batch_size=n(2), seed=n(1), sink_norm=x(50), progress=False
        ).rows
    ),
    "what it writes": lambda d, m, n, x: (
        itda.capture_generation(m, ["the king"], SITE, new_tokens=n(5), seed=n(1), do_sample=True, progress=False).rows
    ),
    "encode": lambda d, m, n, x: d.encode(d.activations, steps=n(2)).coefficients,
    "evaluate": lambda d, m, n, x: itda.evaluate(
        d, m, OTHERS, tokens=n(100), steps=n(2), seed=n(1), resamples=n(20), memory=n(10**6), progress=False
    ),
    "compare codes": lambda d, m, n, x: itda.compare_codes(d, d.activations, noise=(x(0.25),), steps=n(3), seed=n(1)),
    "ablate": lambda d, m, n, x: itda.ablate(
        d, m, OTHERS, count=n(2), tokens=n(100), windows=n(2), steps=n(2), seed=n(1), progress=False
    ),
    "ablate some": lambda d, m, n, x: itda.ablate(d, m, OTHERS, atoms=[n(3)], tokens=n(100), progress=False),
    "probe": lambda d, m, n, x: itda.probe(
        d,
        m,
        tiny.KINGS,
        [text.split()[1] for text in tiny.KINGS],
        sizes=(n(1), n(2)),
        test=x(0.5),
        steps=n(2),
        seed=n(1),
        resamples=n(20),
        progress=False,
    ),
    "read atoms": lambda d, m, n, x: itda.read_atoms(
        d,
        itda.capture(m, OTHERS, SITE, progress=False),
        atoms=n(4),
        examples=n(12),
        steps=n(2),
        seed=n(1),
        resamples=n(20),
    ),
    "explain": lambda d, m, n, x: itda.explain(d, m, "the king", steps=n(2)),
    "steer": steered,
    "gate": lambda d, m, n, x: steer.AtomGate(d, n(3), x(0.5))(d.activations),
    "edit": lambda d, m, n, x: steer.AtomEdit(d, n(3), "set", x(0.5)).atom,
    "push": lambda d, m, n, x: steer.push(
        m, d, n(3), ["the old queen"], multiples=(x(2),), words=n(2), prompt="the", max_new_tokens=n(3), progress=False
    ),
    "align": lambda d, m, n, x: compare.align(d, d, seed=n(1)),
}


def plain(document):
    """What a file would hold of it."""
    return json.dumps(document.to_json() if hasattr(document, "to_json") else document.to_dict())


RESULTS = {
    "diff": lambda d, m, n, x: compare.diff(
        m,
        itda.wrap(tiny.module("Llama", seed=1), tiny.tokenizer()),
        CORPUS,
        site=SITE,
        atoms=n(20),
        steps=n(2),
        tokens=n(400),
        margin=x(0.5),
        apart=x(2.5),
        rate=x(0.25),
        seed=n(1),
        progress=False,
    ),
    "sweep": lambda d, m, n, x: steer.sweep(
        m,
        steer.SteeringVector.from_atoms(d, {n(3): x(1)}),
        [("the king", " good", " bad")],
        ["the old queen"],
        strengths=(x(0.5), n(1)),
        most_perplexity=x(2),
        progress=False,
    ),
    "push": lambda d, m, n, x: steer.push(m, d, n(3), ["the old queen"], multiples=(x(2),), progress=False),
    "layers": lambda d, m, n, x: compare.layer_matrix(
        [m], CORPUS, measure="cka", tokens=n(300), seed=n(1), progress=False
    ),
}


@pytest.mark.parametrize("result", RESULTS)
def test_results_hold_numbers_that_files_take(result, dictionary, model):
    one, other = (RESULTS[result](dictionary, model, *kinds) for kinds in ((int, float), (np.int64, np.float32)))
    assert plain(one) == plain(other)


def test_a_plan_holds_numbers_that_files_take(data):
    def planned(n, x):
        return planning.plan(
            data / "models" / "gpt2-wide", tokens=n(1000), atoms=n(100), steps=n(4), layer=n(1), window=n(64),
            document_tokens=x(50), corpus_tokens=n(5000), on="h100x8", shards=n(4), workers=n(2), threads=n(2),
        )  # fmt: skip

    assert plain(planned(int, float)) == plain(planned(np.int64, np.float32))


def test_rules_parts_and_stores(dictionary, model, tmp_path):
    concept = steer.Concept(name="it", atoms={np.int64(3): np.float32(1)}, threshold=np.float32(0.5))
    assert steer.Rules(dictionary, [concept], []).save(tmp_path / "rules.json").exists()
    assert len(CORPUS.parts(np.int64(2))) == 2
    kept = itda.capture(
        model, CORPUS, [SITE], store=tmp_path / "store", tokens=np.int64(50), sink_norm={SITE: np.float32(50)},
        progress=False,
    )[SITE]  # fmt: skip
    assert len(kept) == 50
    given = itda.capture(
        model, CORPUS, [SITE], store=tmp_path / "store", tokens=50, sink_norm={SITE: 50.0}, progress=False
    )[SITE]
    assert given.folder == kept.folder


@pytest.mark.parametrize("use", USES)
def test_they_are_taken_as_they_are(use, dictionary, model):
    results = [USES[use](dictionary, model, *kinds) for kinds in ((int, float), (np.int64, np.float32))]
    one, other = (getattr(found, "atoms", found) for found in results)
    assert torch.equal(one, other) if isinstance(one, torch.Tensor) else str(one) == str(other)


def test_what_is_no_number_there_is_none_here():
    for wrong in (np.float32("inf"), np.float64("nan"), np.float32("-inf"), 10**400, Fraction(1, 2), np.array(0.5)):
        for check in (above_zero, finite_number, seconds, share):
            with pytest.raises(OptionError, match="it must be"):
                check("it", wrong)
    assert above_zero("it", np.float32(0.5)) == 0.5
    for wrong in (Fraction(3), np.float64(3.0), np.bool_(True), np.array([3]), np.int64(0)):
        with pytest.raises(OptionError, match="steps must be a whole number"):
            itda.Coding(steps=wrong)

"""Overlap of dictionaries: by hand, against both nulls, across tokenizers, and what is refused."""

import math
import random

import pytest
import torch

import itda
from itda import Corpus, compare
from itda.errors import MismatchError, OptionError
from support import tiny

WORDS = sorted({word for line in tiny.KINGS for word in line.split()})
TEXTS = [" ".join(random.Random(number).choices(WORDS, k=12)) for number in range(40)]  # no two rows are equal


@pytest.fixture(scope="module")
def rows(model):
    return itda.capture(model, Corpus.from_texts(TEXTS), site="resid_post.1", tokens=1400, progress=False)


def built(rows, **options):
    options = {"atoms": 200, "steps": 2, "method": "random", **options}
    return itda.build_from_activations(rows, progress=False, **options)


def test_a_dictionary_and_itself(rows):
    dictionary = built(rows)
    found = compare.overlap(dictionary, dictionary)
    assert (found.shared, found.sizes, found.jaccard, found.adjusted) == (200, (200, 200), 1, 1)
    assert found.level == "tokens"
    assert found.strata == "token"


def test_what_is_shared_is_counted(rows):
    one, other = built(rows), built(rows, seed=1)
    places = [{(source.document, source.token_index) for source in each.sources} for each in (one, other)]
    shared = len(places[0] & places[1])
    found = compare.overlap(one, other)
    assert found.shared == shared > 0
    assert found.jaccard == pytest.approx(shared / (400 - shared))
    assert found.overlap_coefficient == pytest.approx(shared / 200)
    assert "Jaccard" in str(found)
    assert found.to_dict()["shared"] == shared


def test_chance_is_what_random_dictionaries_share(rows):
    several = [built(rows, seed=seed) for seed in range(8)]
    pairs = [(one, other) for number, one in enumerate(several) for other in several[:number]]
    for candidates in (None, rows.sources):
        found = [compare.overlap(one, other, candidates=candidates) for one, other in pairs]
        mean = sum(one.shared for one in found) / len(found)
        expected = sum(2 * 200 * one.expected / (1 + one.expected) for one in found) / len(found)
        assert mean == pytest.approx(expected, rel=0.25)
        assert abs(sum(one.adjusted for one in found) / len(found)) < 0.03


def test_taking_the_same_kinds_of_tokens_is_no_agreement(rows):
    """Two choices of one kind of token, each any of them: the plain Jaccard is high, the adjusted one is not."""
    token = int(rows.sources.token_id.mode().values)
    mine = torch.nonzero(rows.sources.token_id == token)[:, 0]
    found = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        halves = []
        for _ in range(2):
            some = mine[torch.randperm(len(mine), generator=generator)[: len(mine) // 2]].sort().values
            halves.append(built(rows.select(some), atoms=len(some)))
        found.append(compare.overlap(*halves, candidates=rows.sources, anyway=True))  # equal rows are one atom
    assert min(one.jaccard for one in found) > 0.2
    assert sum(one.adjusted for one in found) / 12 == pytest.approx(0, abs=0.06)


def test_atoms_that_paper_mode_begins_with_are_left_out(rows):
    options = {"method": "paper", "max_cosine_gap": 0.01, "atoms": 40}
    one = built(rows, **options)
    other = built(rows, **options, center=True)
    found = compare.overlap(one, other)
    assert found.left_out == rows.width
    assert found.sizes == (40 - rows.width, 40 - rows.width)


def test_an_untrained_model_is_another_null(rows):
    one, other, null = built(rows), built(rows, seed=1), built(rows, seed=2)
    found = compare.overlap(one, other, untrained=null)
    wanted = sum(compare.overlap(each, null).jaccard for each in (one, other)) / 2
    assert found.untrained == pytest.approx(wanted)
    assert found.beyond_untrained == pytest.approx((found.jaccard - wanted) / (1 - wanted))
    assert "untrained" in str(found)
    with pytest.raises(MismatchError, match="untrained model: they have 200 and 50 atoms"):
        compare.overlap(one, other, untrained=built(rows, atoms=50))


def test_two_tokenizers_are_compared_by_characters(data, stories):
    some = Corpus.from_texts([document.text for document in stories][:60])
    several = [
        itda.capture(itda.load_model(data / "models" / name), some, site="resid_post.1", tokens=None, progress=False)
        for name in ("stories260k", "babyllama-char105")
    ]
    one, other = (built(rows, atoms=300) for rows in several)
    with pytest.raises(OptionError, match="two tokenizers"):
        compare.overlap(one, other)
    found = compare.overlap(one, other, candidates=tuple(rows.sources for rows in several))
    assert found.level == "characters"
    assert 0.1 < found.common < 0.9
    assert found.sizes[1] < 300  # most of the ends of characters are no ends of longer tokens
    assert abs(found.adjusted) < 0.05
    assert "common places" in str(found)


def test_dictionaries_that_are_not_alike_are_refused_unless_told(rows, model):
    one = built(rows)
    elsewhere = itda.capture(
        model, Corpus.from_texts(["another text", *TEXTS]), site="resid_post.1", tokens=1400, progress=False
    )
    for other, what in ((built(rows, atoms=50), "200 and 50 atoms"), (built(elsewhere), "corpus"),
                        (built(rows, method="greedy"), "'random' and 'greedy'")):  # fmt: skip
        with pytest.raises(MismatchError, match=what):
            compare.overlap(one, other)
        found = compare.overlap(one, other, anyway=True)
        assert any(what.split("'")[0].strip() in line for line in found.differs)
        assert "differs" in str(found)


def test_atoms_without_a_name_are_refused(rows):
    one = built(rows)
    bare = built(rows.rows)
    learned = built(rows, method="learned")
    for other in (bare, learned):
        with pytest.raises(OptionError, match="one named activation each"):
            compare.overlap(one, other)
    with pytest.raises(OptionError, match=r"itda\.Dictionary"):
        compare.overlap(one, "runs/b")
    with pytest.raises(OptionError, match="anyway"):
        compare.overlap(one, one, anyway=1)


def test_nothing_in_common_is_said(rows):
    places = torch.arange(len(rows))
    halves = [rows.select(part) for part in (places[:700], places[700:])]
    with pytest.raises(MismatchError, match="No atom"):
        compare.overlap(*map(built, halves), candidates=tuple(half.sources for half in halves))
    found = compare.overlap(*map(built, halves))
    assert found.shared == 0
    assert found.adjusted < 0 or math.isclose(found.adjusted, 0)

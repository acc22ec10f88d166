"""Rules say what holds of a text and why, and steer the texts of which it holds."""

import json

import pytest
import torch

import itda
from itda import steer
from itda.errors import CorpusError, FormatError, MismatchError, OptionError, OutputError
from itda.models import tokenizing
from support import tiny

SITE = "resid_post.1"
QUEENS = [f"old queen {number}" for number in range(12)]
NUMBERS = [f"{number} {number + 1}!" for number in range(12)]
TEXTS = QUEENS + NUMBERS
LABELS = [True] * 12 + [False] * 12


@pytest.fixture(scope="module")
def concept(gpt, dictionary):
    return steer.Concept.fit("queen", dictionary, gpt, TEXTS, LABELS, atoms=5, progress=False)


def made(name, atom=0, threshold=0.0):
    return steer.Concept(name=name, atoms={atom: 1.0}, threshold=threshold)


def test_a_concept_is_atoms_that_tell_its_texts_apart(gpt, dictionary, concept):
    features = itda.steer.concepts.text_features(dictionary, gpt, TEXTS, progress=False)
    scores = concept.scores(features)
    assert len(concept.atoms) <= 5
    one_sided = steer.Concept.from_features("queen", features, LABELS, atoms=5, against=False)
    assert all(weight > 0 for weight in one_sided.atoms.values())
    right = [(score > concept.threshold) == label for score, label in zip(scores, LABELS, strict=True)]
    assert sum(right) >= 23
    for atom in concept.atoms:
        used = features[:, [atom]].toarray()[:, 0]
        assert (used[:12].mean() > used[12:].mean()) == (concept.atoms[atom] > 0)
    expected = sum(weight * features[3, atom] for atom, weight in concept.atoms.items())
    assert scores[3] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("a", [0, 0, 1, 1]), ("not a", [1, 1, 0, 0]), ("a and b", [0, 0, 0, 1]), ("a or b", [0, 1, 1, 1]),
        ("not (a or b)", [1, 0, 0, 0]), ("a and not b", [0, 0, 1, 0]), ("a or not a and b", [0, 1, 1, 1]),
    ],
)  # fmt: skip
def test_conditions_are_boolean_algebra(condition, expected):
    rule = steer.Rule.parse(f"c if {condition}")
    worlds = [{"a": bool(world & 2), "b": bool(world & 1)} for world in range(4)]
    assert [int(rule.holds(world)) for world in worlds] == expected


def test_conclusions_are_conditions_of_others_in_any_order(gpt, dictionary, concept):
    rules = steer.Rules(
        dictionary,
        [concept],
        ["third if second and not other", "second if first", "first if queen", "other if not queen", "third if other"],
    )
    queens, numbers = rules.read(gpt, [QUEENS[0], NUMBERS[0]], progress=False)
    assert queens.holds == {"queen", "first", "second", "third"}
    assert [rule.conclusion for rule in queens.fired] == ["first", "second", "third"]
    assert str(queens) == "first if queen; second if first; third if second and not other"
    assert numbers.holds == {"other", "third"}
    assert [str(rule) for rule in numbers.fired] == ["other if not queen", "third if other"]
    assert queens.scores["queen"] > 0 > numbers.scores["queen"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_only_texts_of_which_it_holds_are_steered(gpt, dictionary, concept, side):
    gate = steer.Rules(dictionary, [concept], ["royal if queen"]).gate(gpt, "royal")
    texts = [QUEENS[1], NUMBERS[1], "old queen 5 and more", "7 8!"]
    parts = [tokenizing.windows(gpt, [text], length=48)[0][0] for text in texts]
    inputs = tokenizing.batch(gpt, parts, length=None, side=side)
    vector = steer.SteeringVector.from_direction(gpt, "resid_post.0", torch.ones(16), norm=1.0)
    place = gpt.site("resid_post.0")
    before = gpt.read(inputs, [place])[place.name]
    with vector.apply(gpt, 2.0, when=gate):
        after = gpt.read(inputs, [place])[place.name]
    real = inputs["attention_mask"].bool()
    moved = (after - before).abs().amax(2) > 1e-4
    expected = [("royal" in reading.holds) for reading in gate.readings]
    assert expected == ["royal" in one.holds for one in gate._rules.read(gpt, texts, progress=False)]
    assert expected[0]
    assert not expected[1]
    for row, steered in enumerate(expected):
        assert bool((moved[row][real[row]] == steered).all())


def test_generation_says_which_rules_fired(gpt, dictionary, concept):
    rules = steer.Rules(dictionary, [concept], ["royal if queen"])
    vector = steer.SteeringVector.from_direction(gpt, "resid_post.2", torch.randn(16), norm=3.0)
    prompts = [QUEENS[2], NUMBERS[2]]
    plain = steer.generate(gpt, prompts, max_new_tokens=6)
    found = steer.generate(gpt, prompts, vector, strength=4.0, when=rules.gate(gpt, "royal"), max_new_tokens=6)
    always = steer.generate(gpt, prompts, vector, strength=4.0, max_new_tokens=6)
    assert found[0].why == "royal if queen"
    assert found[1].why == "no rule fired"
    assert found[0].text == always[0].text != plain[0].text
    assert found[1].text == plain[1].text != always[1].text


def test_a_prompt_that_was_read_before_is_refused(gpt, dictionary, concept):
    gate = steer.Rules(dictionary, [concept], []).gate(gpt, "queen")
    vector = steer.SteeringVector.from_direction(gpt, SITE, torch.ones(16), norm=1.0)
    ids = torch.tensor([[5, 9, 40]])
    cache = gpt.module(input_ids=ids, use_cache=True).past_key_values
    with vector.apply(gpt, when=gate), pytest.raises(OptionError, match="Begin to steer before"):
        gpt.module(input_ids=ids[:, :1], past_key_values=cache)
    embedded = gpt.module.get_input_embeddings()(ids)
    with vector.apply(gpt, when=gate), pytest.raises(OptionError, match="input_ids"):
        gpt.module(inputs_embeds=embedded)
    assert not gpt.module._forward_pre_hooks


def test_rules_are_kept_with_the_texts_of_their_atoms(dictionary, concept, tmp_path):
    rules = steer.Rules(dictionary, [concept], ["royal if queen", "plain if not royal"])
    path = rules.save(tmp_path / "rules.json")
    again = steer.Rules.load(path, dictionary)
    assert again.concepts == rules.concepts
    assert again.rules == rules.rules
    assert dictionary.describe(next(iter(concept.atoms)))[:8] in path.read_text()
    known = json.loads(path.read_text())
    for change in ({"rules": "abc"}, {"rules": [3]}, {"rules": ["a if b"]}, {"dictionary": None}, {"concepts": 3}):
        forged = {**known, **change}
        path.write_text(json.dumps({name: value for name, value in forged.items() if value is not None}))
        with pytest.raises(FormatError):
            steer.Rules.load(path, dictionary)
    assert rules.save(path) == path
    path.write_text("my notes")
    with pytest.raises(OutputError, match="not written by this"):
        rules.save(path)
    assert path.read_text() == "my notes"


def test_rules_of_another_dictionary_are_refused(gpt, dictionary, concept, tmp_path):
    path = steer.Rules(dictionary, [concept], []).save(tmp_path / "rules.json")
    corpus = itda.Corpus.from_texts(tiny.KINGS[:9])
    other = itda.build(gpt, corpus, site=SITE, atoms=24, steps=3, method="random", progress=False)
    with pytest.raises(MismatchError, match="another dictionary"):
        steer.Rules.load(path, other)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["calm if joy and rest"], "'rest', which is no concept"),
        (["calm if slow", "slow if easy", "easy if calm"], "go in a circle: "),
        (["calm if calm"], "go in a circle"),
        (["joy if not joy"], "concludes a concept"),
        (["calm when joy"], "conclusion if condition"),
        (["calm if joy +"], "cannot be read"),
        (["calm if joy > 2"], "more than names"),
        (["calm if __import__('os')"], "more than names"),
        (["not if joy"], "one word"),
        (["calm if " + "(" * 450 + "joy" + ")" * 450], "cannot be read"),
        (["calm if " + "not " * 400 + "joy"], "at most 1000"),
        ([3], "conclusion if condition"),
    ],
)
def test_rules_that_mean_nothing_are_refused(dictionary, rules, message):
    with pytest.raises(OptionError, match=message):
        steer.Rules(dictionary, [made("joy")], rules)


def test_concepts_that_mean_nothing_are_refused(gpt, dictionary):
    with pytest.raises(OptionError, match="one word"):
        made("great joy")
    with pytest.raises(OptionError, match="no atoms"):
        steer.Concept(name="joy", atoms={}, threshold=0.0)
    with pytest.raises(OptionError, match="has atom 24"):
        steer.Rules(dictionary, [made("joy", 24)], [])
    with pytest.raises(OptionError, match="same name"):
        steer.Rules(dictionary, [made("joy"), made("joy", 1)], [])
    with pytest.raises(OptionError, match="texts that are not"):
        steer.Concept.fit("joy", dictionary, gpt, QUEENS, [True] * 12, progress=False)
    with pytest.raises(OptionError, match="label for each"):
        steer.Concept.fit("joy", dictionary, gpt, QUEENS, [True, False], progress=False)
    with pytest.raises(OptionError, match="one word"):
        made("ﬁne")  # which Python reads as "fine"
    with pytest.raises(OptionError, match="list of concepts"):
        steer.Rules(dictionary, [made("joy")], "calm if joy")
    with pytest.raises(CorpusError, match="list of texts"):
        steer.Rules(dictionary, [made("joy")], []).read(gpt, "the good king")
    for texts in ([], ["good", " "]):
        with pytest.raises(CorpusError):
            steer.Rules(dictionary, [made("joy")], []).read(gpt, texts)
    with pytest.raises(OptionError, match="There is no 'sorrow'"):
        steer.Rules(dictionary, [made("joy")], []).gate(gpt, "sorrow")

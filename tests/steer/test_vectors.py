"""Vectors are what their method says, add and scale as numbers do, and come back from files as they were."""

import json

import pytest
import torch
from safetensors.torch import save_file

import itda
from itda import steer
from itda.errors import CorpusError, FormatError, MismatchError, OptionError, OutputError, ShapeError
from itda.steer.directions import DIRECTIONS
from itda.steer.reading import read_texts
from support import tiny

SITE = "resid_post.1"
PAIRS = [("the good king", "the bad king"), ("a good queen", "a bad queen"), ("good number 7", "bad number 7")]


@pytest.fixture(scope="module")
def gpt():
    return itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())


@pytest.fixture(scope="module")
def vector(gpt):
    return steer.SteeringVector.fit(gpt, PAIRS, [SITE, "resid_post.0"], progress=False)


def states(gpt, texts, read="last"):
    return read_texts(gpt, texts, [SITE], read=read, progress=False).rows[SITE]


def test_the_mean_difference(gpt, vector):
    positive, negative = (states(gpt, [pair[side] for pair in PAIRS]) for side in (0, 1))
    expected = (positive - negative).mean(0)
    assert torch.allclose(vector.directions[SITE], expected / expected.norm(), atol=1e-6)
    assert vector.directions[SITE].norm() == pytest.approx(1)
    unpaired = steer.SteeringVector.fit(gpt, ([a for a, _ in PAIRS], [PAIRS[0][1]]), [SITE], progress=False)
    expected = positive.mean(0) - negative[0]
    assert torch.allclose(unpaired.directions[SITE], expected / expected.norm(), atol=1e-6)


@pytest.mark.parametrize("method", DIRECTIONS)
def test_planted_directions_are_found(method):
    generator = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(24, generator=generator), dim=0)
    common = torch.randn(200, 24, generator=generator)
    size = 1 + torch.rand(200, 1, generator=generator) * 3
    noise = 0.02 * torch.randn(2, 200, 24, generator=generator)
    found = DIRECTIONS[method](common + size * planted + noise[0], common - size * planted + noise[1])
    assert float(torch.nn.functional.cosine_similarity(found, planted, dim=0)) > 0.99
    flipped = DIRECTIONS[method](common - size * planted + noise[1], common + size * planted + noise[0])
    assert float(torch.nn.functional.cosine_similarity(flipped, planted, dim=0)) < -0.99


def test_what_is_read_of_a_text(gpt):
    text = "the good king"
    whole = states(gpt, [text], "tokens")
    assert len(whole) == len(text)  # a byte a token; the begin token is left out
    assert torch.equal(states(gpt, [text], "last")[0], whole[-1])
    assert torch.allclose(states(gpt, [text], "mean")[0], whole.mean(0), atol=1e-6)
    assert torch.equal(states(gpt, [text], 2)[0], whole[2])
    together = states(gpt, [text, "a much longer text than the first", "x"], "last")
    assert torch.allclose(together[0], whole[-1], atol=1e-5), "padding changes nothing"


def test_the_norm_is_the_median(gpt):
    found = read_texts(gpt, ["the good king", "bad"], [SITE], read="tokens", progress=False)
    inputs = gpt.tokenizer(["the good king", "bad"], padding=True, return_tensors="pt")
    values = gpt.read(dict(inputs), [gpt.site(SITE)])[SITE][inputs["attention_mask"].bool()]
    assert found.norms[SITE] == pytest.approx(float(values.norm(dim=1).median()), rel=1e-4)


def test_algebra(vector):
    two = vector + vector
    assert torch.allclose(two.directions[SITE], 2 * vector.directions[SITE])
    assert torch.allclose((vector * 3 - vector).directions[SITE], two.directions[SITE])
    assert torch.allclose((-vector / 2).directions[SITE], -0.5 * vector.directions[SITE])
    assert two.normalised().directions[SITE].norm() == pytest.approx(1)
    other = steer.SteeringVector(
        directions={SITE: torch.randn(16)}, norms={SITE: vector.norms[SITE]}, model=vector.model
    )
    assert float(vector.orthogonal_to(other).directions[SITE] @ other.directions[SITE]) == pytest.approx(0, abs=1e-6)
    assert torch.equal(vector.orthogonal_to(other).directions["resid_post.0"], vector.directions["resid_post.0"])
    with pytest.raises(OptionError, match="nothing of it is left"):
        other.orthogonal_to(-2 * other)
    with pytest.raises(OptionError, match="SteeringVector"):
        other.orthogonal_to(other.directions[SITE])
    assert vector.at(SITE).sites == (SITE,)
    with pytest.raises(OptionError, match="resid_post.2"):
        vector.at("resid_post.2")
    with pytest.raises(TypeError):
        vector + 1
    with pytest.raises(TypeError):
        vector * "2"
    foreign = steer.SteeringVector.fit(itda.wrap(tiny.module("Llama"), tiny.tokenizer()), PAIRS, [SITE], progress=False)
    with pytest.raises(MismatchError, match="different models"):
        vector + foreign


def test_sums_add_as_much_as_their_parts(vector):
    """Parts that were measured in other norms add what they would by themselves."""
    other = steer.SteeringVector(
        directions={SITE: torch.ones(16)}, norms={SITE: 3 * vector.norms[SITE]}, model=vector.model
    )
    both = vector + other
    added = both.norms[SITE] * both.directions[SITE]
    parts = vector.norms[SITE] * vector.directions[SITE] + other.norms[SITE] * other.directions[SITE]
    assert torch.allclose(added, parts, atol=1e-4)


def test_atoms_are_directions(gpt):
    dictionary = itda.build(gpt, itda.Corpus.from_texts(tiny.KINGS), site=SITE, atoms=12, steps=2, progress=False)
    one = steer.SteeringVector.from_atom(dictionary, 3)
    assert torch.equal(one.directions[SITE], dictionary.atoms[3])
    assert one.facts["texts"] == [dictionary.describe(3)]
    several = steer.SteeringVector.from_atoms(dictionary, {1: 2.0, 4: -0.5})
    assert torch.allclose(several.directions[SITE], 2 * dictionary.atoms[1] - 0.5 * dictionary.atoms[4])
    usual = read_texts(gpt, tiny.KINGS, [SITE], read="tokens", progress=False).norms[SITE]
    assert one.norms[SITE] == pytest.approx(usual, rel=0.25)
    for wrong in (12, -1, "3"):
        with pytest.raises(OptionError, match="0 to 11"):
            steer.SteeringVector.from_atom(dictionary, wrong)
    bare = itda.build_from_activations(torch.randn(50, 16), atoms=4, steps=1, progress=False)
    with pytest.raises(OptionError, match="bare array"):
        steer.SteeringVector.from_atom(bare, 0)


def test_files_come_back_as_they_were(vector, tmp_path):
    path = vector.save(tmp_path / "v.safetensors")
    back = steer.SteeringVector.load(path)
    assert back.sites == vector.sites
    assert all(torch.equal(back.directions[site], vector.directions[site]) for site in vector.sites)
    assert (back.norms, back.facts, back.model) == (vector.norms, vector.facts, vector.model)
    assert back.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_only_a_vector_is_replaced_by_a_vector(vector, tmp_path):
    path = vector.save(tmp_path / "v.safetensors")
    assert vector.save(path) == path
    weights = tmp_path / "model.safetensors"
    for content in ({"w": torch.ones(3)}, b"notes", b"[" * 100):
        weights.write_bytes(content) if isinstance(content, bytes) else save_file(content, weights)
        before = weights.read_bytes()
        with pytest.raises(OutputError, match="no steering vector of itda"):
            vector.save(weights)
        assert weights.read_bytes() == before
    weights.write_bytes(b"")
    vector.save(weights)


def test_damaged_and_foreign_files_are_refused(vector, tmp_path):
    path = vector.save(tmp_path / "v.safetensors")
    content = path.read_bytes()
    with pytest.raises(OptionError, match="safetensors"):
        vector.save(tmp_path / "v.pt")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        vector.save(tmp_path / "file" / "v.safetensors")
    with pytest.raises(FormatError, match="no file"):
        steer.SteeringVector.load(tmp_path / "none.safetensors")
    for damaged in (content[:-5], content[:20], b"", b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            steer.SteeringVector.load(path)
    save_file({"a": torch.ones(3)}, path)
    with pytest.raises(FormatError, match="no steering vector"):
        steer.SteeringVector.load(path)
    own = {"format": "itda.steering_vector", "version": 1}
    for facts in (
        {}, own, {**own, "version": 99}, {**own, "format": "itda.dreams"}, [],
        {**own, "sites": [], "norms": {}, "facts": {}, "model": None},
        {**own, "sites": ["resid_post.0"], "norms": {}, "facts": {}, "model": None},
    ):  # fmt: skip
        header = {"itda": json.dumps(facts)}
        save_file({SITE: torch.ones(16)}, path, metadata=header)
        with pytest.raises((FormatError, OptionError)):
            steer.SteeringVector.load(path)


def test_bad_input_is_refused(gpt):
    def fit(pairs, **options):
        return steer.SteeringVector.fit(gpt, pairs, options.pop("sites", [SITE]), progress=False, **options)

    with pytest.raises(OptionError, match="list of"):
        fit("a text")
    with pytest.raises(OptionError, match="two texts"):
        fit([("a", "b", "c")])
    with pytest.raises(OptionError, match="list of"):
        fit([])
    with pytest.raises(CorpusError, match="empty"):
        fit([("a", " ")])
    with pytest.raises(OptionError, match="3 and 2"):
        fit((["a", "b", "c"], ["d", "e"]), method="pca")
    with pytest.raises(OptionError, match="no direction between"):
        fit([("the same", "the same")])
    with pytest.raises(OptionError, match="method must be one of"):
        fit(PAIRS, method="magic")
    with pytest.raises(OptionError, match="read must be"):
        fit(PAIRS, read="first")
    with pytest.raises(OptionError, match="past the"):
        fit(PAIRS, read=30)
    with pytest.raises(CorpusError, match="Shorten"):
        fit([("x" * 100, "y")])
    with pytest.raises(OptionError, match="different places"):
        fit(PAIRS, sites=[])
    with pytest.raises(ShapeError):
        steer.SteeringVector.from_direction(gpt, SITE, torch.ones(3))
    with pytest.raises(OptionError, match="at least one"):
        steer.SteeringVector(directions={}, norms={}, model=None)


def test_two_pairs_as_lists_are_two_pairs(gpt):
    pairs = PAIRS[:2]
    expected = steer.SteeringVector.fit(gpt, pairs, [SITE], progress=False)
    found = steer.SteeringVector.fit(gpt, [list(pair) for pair in pairs], [SITE], progress=False)
    assert torch.equal(found.directions[SITE], expected.directions[SITE])
    with pytest.raises(OptionError, match="given as a tuple"):
        steer.SteeringVector.fit(gpt, [["a", "b", "c"], ["d", "e", "f"]], [SITE], progress=False)

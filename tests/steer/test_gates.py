"""Gates open where they should, at thresholds that labelled examples give."""

import numpy as np
import pytest
import torch

import itda
from itda import steer
from itda.errors import OptionError, ShapeError
from itda.models import tokenizing
from support import tiny

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def gpt():
    return itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())


def test_the_threshold_is_the_best_there_is():
    scores = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0]
    found = steer.find_threshold(scores, [False, False, False, False, True, True])
    assert found == (6.5, 1.0)
    mixed = steer.find_threshold(scores, [False, True, False, False, True, True])
    best = max(
        (sum(s > cut for s, y in zip(scores, labels, strict=True) if y) / 3
         + sum(s <= cut for s, y in zip(scores, labels, strict=True) if not y) / 3) / 2
        for labels in [[False, True, False, False, True, True]] for cut in (-1, 0.5, 1.5, 2.5, 6, 10.5, 12)
    )  # fmt: skip
    assert mixed.balanced_accuracy == pytest.approx(best)
    rare = steer.find_threshold([*([0.0] * 98), 1.0, 0.0], [*([False] * 98), True, True])
    assert rare == (0.5, 0.75), "the rare kind counts as much as the frequent one"
    assert steer.find_threshold([1.0, 1.0], [True, False]).balanced_accuracy == 0.5


def test_steering_happens_only_where_the_gate_is_open(gpt):
    corpus = itda.Corpus.from_texts(tiny.KINGS)
    dictionary = itda.build(gpt, corpus, site=SITE, atoms=12, steps=3, method="random", progress=False)
    part = tokenizing.windows(gpt, ["the good king and the bad queen"], length=48)[0][0]
    inputs = tokenizing.batch(gpt, [part], length=None)
    place = gpt.site(SITE)
    before = gpt.read(inputs, [place])[SITE][0]
    atom = int(dictionary.encode(before).usage(12).argmax())
    scores = steer.AtomGate(dictionary, atom).scores(before)
    gate = steer.AtomGate(dictionary, atom, 0.5 * float(scores.max()))
    vector = steer.SteeringVector.from_direction(gpt, SITE, torch.ones(16), norm=1.0)
    with vector.apply(gpt, 0.5, when=gate):
        after = gpt.read(inputs, [place])[SITE][0]
    moved = (after - before).abs().amax(1) > 1e-6
    assert torch.equal(moved, scores > 0.5 * scores.max())
    assert bool(moved.any())
    assert not bool(moved.all())
    direction = torch.randn(16)
    parts = (before @ direction / direction.norm()).sort().values
    beyond = float(parts[9:11].mean())  # between two, not at one
    with vector.apply(gpt, 0.5, when=steer.ProjectionGate(3 * direction, beyond)):
        after = gpt.read(inputs, [place])[SITE][0]
    assert torch.equal((after - before).abs().amax(1) > 1e-6, before @ direction / direction.norm() > beyond)


def test_scores_are_of_double_precision():
    assert steer.find_threshold([0.1, 0.2, 0.9], [0, 0, 1]).value == 0.55
    assert steer.find_threshold([2.0**24, 2.0**24 + 1], [0, 1]).balanced_accuracy == 1
    assert steer.find_threshold(np.array([3.0, 2.0, 1.0])[::-1], [False, False, True]).value == 2.5


def test_bad_input_is_refused():
    with pytest.raises(OptionError, match="both"):
        steer.find_threshold([1.0, 2.0], [True, True])
    with pytest.raises(ShapeError, match="as many"):
        steer.find_threshold([1.0, 2.0], [True])
    with pytest.raises(ShapeError, match="finite"):
        steer.find_threshold([1.0, float("nan")], [True, False])
    with pytest.raises(OptionError, match="1 and 0"):
        steer.find_threshold([1.0, 2.0, 3.0], [0, 1, 2])
    for scores, labels in (([1.0, 2.0], ["no", "yes"]), (torch.ones(2, dtype=torch.complex64), [1, 0]), (2.0, 1)):
        with pytest.raises(ShapeError):
            steer.find_threshold(scores, labels)
    with pytest.raises(ShapeError):
        steer.ProjectionGate(torch.ones(2, 2))
    for kind in (torch.bool, torch.int64, torch.complex64):
        with pytest.raises(ShapeError, match="floating point"):
            steer.ProjectionGate(torch.ones(2, dtype=kind))
    with pytest.raises(OptionError, match="threshold"):
        steer.ProjectionGate(torch.ones(2), float("inf"))
    bare = itda.build_from_activations(torch.randn(50, 16), atoms=4, steps=1, progress=False)
    with pytest.raises(OptionError, match="0 to 3"):
        steer.AtomGate(bare, 4)

"""Recipes make the pairs that they are named for."""

import pytest

from itda import steer
from itda.errors import CorpusError, OptionError
from itda.steer import recipes


def test_the_shortest_stands_against_the_longest():
    pairs = recipes.shortest_against_longest(["Q: ", "R: ", "S: "], [["abc", "a", "ab"], ["xy", "x"], ["same", "size"]])
    assert pairs == [("Q: a", "Q: abc"), ("R: x", "R: xy")]
    right = recipes.shortest_against_longest(["Q: "], [["abc", "a", "ab"]], right=[[True, False, True]])
    assert right == [("Q: ab", "Q: abc")]


def test_concise_stands_against_verbose(gpt):
    pairs = recipes.concise_against_verbose(["Q: ", "R: "], ["a", "b"], ["a, as it were", "b, so to speak"])
    assert pairs == [("Q: a", "Q: a, as it were"), ("R: b", "R: b, so to speak")]
    vector = steer.SteeringVector.fit(gpt, pairs, ["resid_post.1"], progress=False)
    assert vector.facts["positive"] == 2


def test_what_does_not_go_together_is_refused():
    with pytest.raises(CorpusError, match="list of answers"):
        recipes.shortest_against_longest(["Q"], [])
    with pytest.raises(CorpusError, match="of `right`"):
        recipes.shortest_against_longest(["Q"], [["a", "ab"]], right=[[True]])
    with pytest.raises(OptionError, match="two lengths"):
        recipes.shortest_against_longest(["Q"], [["a", "b"]])
    with pytest.raises(CorpusError, match="1 prompts, 0 concise"):
        recipes.concise_against_verbose(["Q"], [], ["a"])
    with pytest.raises(CorpusError):
        recipes.concise_against_verbose([], [], [])

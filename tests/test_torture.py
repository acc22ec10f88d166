"""Killed without warning and run again, everything ends as if nothing had happened; `make torture` kills 100 times."""

import random

import pytest

from support import torture


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    return torture.victims(tmp_path_factory.mktemp("torture"), share=0.4)


@pytest.mark.long
@pytest.mark.parametrize("name", ["capture", "build", "build from a store", "merge", "save"])
def test_what_is_killed_goes_on_to_the_same_bytes(name, victims, tmp_path):
    _, differing = torture.kill(victims[name], tmp_path, random.Random(0), most=1)
    assert not differing

"""An atom at extreme values: predictions change with it, and what changes is recorded."""

import pytest
import torch

from itda import steer
from itda.errors import MismatchError, OptionError
from itda.models import tokenizing
from itda.models.losses import predict
from support import tiny

TEXTS = tiny.KINGS[:3]


@pytest.fixture(scope="module")
def atom(gpt, dictionary):
    rows = gpt.read(
        tokenizing.batch(gpt, [tokenizing.windows(gpt, TEXTS[:1], length=48)[0][0]], length=None),
        [gpt.site(dictionary.site)],
    )[dictionary.site][0]
    return int(dictionary.encode(rows).usage(len(dictionary)).argmax())


def test_what_changes_grows_with_the_push_and_is_that_of_the_atom(gpt, dictionary, atom):
    found = steer.push(gpt, dictionary, atom, TEXTS, multiples=(0, 1, 8), prompt="the", progress=False)
    assert found.used
    assert [push.multiple for push in found.pushes] == [0, 1, 8]
    assert found.pushes[2].kl > found.pushes[1].kl > 0
    assert found.pushes[2].value == pytest.approx(8 * found.largest)
    assert all(value > 0 for push in found.pushes for _, value in push.likelier)
    assert found.pushes[2].continuation
    part = tokenizing.windows(gpt, TEXTS[:1], length=48)[0][0]
    inputs = tokenizing.batch(gpt, [part], length=None)
    plain = predict(gpt, inputs)[0]
    with steer.AtomEdit(dictionary, atom, "set", 8 * found.largest).apply(gpt):
        change = (predict(gpt, inputs)[0] - plain).mean(0)
    alone = steer.push(gpt, dictionary, atom, TEXTS[:1], multiples=(8 * found.largest,), words=3, progress=False)
    expected = float(change.max())
    scaled = steer.push(
        gpt, dictionary, atom, TEXTS[:1], multiples=(8 * found.largest / alone.largest,), words=3, progress=False
    )
    assert scaled.pushes[0].likelier[0][1] == pytest.approx(expected, abs=1e-4)
    assert "goes on with" in str(found)
    assert found.to_json()["pushes"][1]["multiple"] == 1


def test_an_atom_that_is_not_used_is_said(gpt, dictionary):
    def used(number):
        return steer.push(gpt, dictionary, number, ["z"], multiples=(1,), progress=False)

    unused = next(one for one in map(used, range(len(dictionary))) if not one.used)
    assert unused.largest > 0
    assert "do not use it" in str(unused)


def test_bad_input_is_refused(gpt, dictionary):
    import itda

    with pytest.raises(OptionError, match="0 to 23"):
        steer.push(gpt, dictionary, 24, TEXTS, progress=False)
    with pytest.raises(OptionError, match="at least one multiple"):
        steer.push(gpt, dictionary, 0, TEXTS, multiples=(), progress=False)
    with pytest.raises(OptionError, match="finite"):
        steer.push(gpt, dictionary, 0, TEXTS, multiples=(float("inf"),), progress=False)
    other = itda.wrap(tiny.module("GPT-2", seed=1), tiny.tokenizer())
    with pytest.raises(MismatchError):
        steer.push(other, dictionary, 0, TEXTS, progress=False)
    assert not torch.is_grad_enabled() or not gpt.module.training
